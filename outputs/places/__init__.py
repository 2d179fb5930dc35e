"""Where files lie: folders of a disk and of object stores."""
