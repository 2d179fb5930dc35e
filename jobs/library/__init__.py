"""What a program imports: `import qkatlas as qk`."""
