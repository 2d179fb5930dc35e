"""Arrow schemas of what a tasks run leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field
from qkatlas.outputs.schemas.head_scan import place_of_head


def _nats(name: str, what: str, *, nullable: bool = False) -> pa.Field:
    return field(name, pa.float64(), what, unit="nats", nullable=nullable)


def _share(name: str, what: str, *, nullable: bool = False) -> pa.Field:
    return field(name, pa.float64(), what, nullable=nullable)


def _interval(name: str, of: str) -> list[pa.Field]:
    return [
        _nats(f"{name}_low", f"lower end of the paired 95% bootstrap interval of {of}; null for one answer",
              nullable=True),
        _nats(f"{name}_high", "upper end of that interval", nullable=True),
    ]  # fmt: skip


def _count(name: str, what: str, unit: str) -> pa.Field:
    return field(name, pa.int32(), what, unit=unit)


_TASK = field("task", pa.string(), "name of the task")
_IDS = pa.list_(pa.field("element", pa.int32()))

TASKS = pa.schema(
    [
        _TASK,
        field("family", pa.string(), "kind of job: induction, succession, ...; a task of the user's is one by itself"),
        field("control", pa.string(), "how controls are made: order, exchange or given"),
        _count("n_prompts", "prompts, each with its control", "prompts"),
        _count("n_answers", "different answers among them; prompts of one answer are resampled together", "answers"),
        _nats("loss", "mean over prompts of -ln p of the answers"),
        _nats("control_loss", "the same on the controls"),
        _nats("gain", "control_loss minus loss"),
        *_interval("gain", "the gain"),
        _share("gain_false_share", "share of false ones among gains as clear as this (q-value of a paired t test over "
               "answers); above 0.05 no head is labelled"),
        field("solved", pa.bool_(), "whether the interval of the gain lies above 0; only then heads are labelled"),
        _nats("shuffled_loss", "loss of other prompts' answers on the prompts, the null of labels"),
        _count("n_exact", "heads that were measured exactly, audited ones among them", "heads"),
        _count("n_audited", "of these, heads drawn at random from those with a small linear estimate", "heads"),
        _count("n_heads", "heads that serve the task", "heads"),
        _count("audit_heads", "of the audited heads, those that serve it", "heads"),
        _count("missed_most", "upper 95% bound on heads that serve it and were not measured", "heads"),
        _count("null_heads", "heads that would serve it by the answers of other prompts", "heads"),
        field("dla_residual", pa.float64(),
              "largest difference between an answer's centred logit and the sum over components", unit="logits"),
    ]
)  # fmt: skip

TASK_HEADS = pa.schema(
    [
        _TASK,
        *place_of_head(),
        _nats("effect", "loss with the head ablated minus loss; null where it was not measured", nullable=True),
        *_interval("effect", "the effect"),
        _nats("control_effect", "the same on the controls", nullable=True),
        _nats("specific", "effect minus control_effect", nullable=True),
        *_interval("specific", "the specific effect"),
        _share("false_share", "share of false ones among pairs as clear as this (q-value of a paired t test, above 0, "
               "over the pairs of solved tasks)", nullable=True),
        _share("z_layer", "specific effect in standard deviations of the layer's other measured heads; null with fewer "
               "than 3", nullable=True),
        field("serves", pa.bool_(), "whether the head serves the task"),
        _nats("effect_linear", "linear estimate of the effect, by one backward pass: no measurement"),
        _nats("control_effect_linear", "the same on the controls"),
        field("exact", pa.bool_(), "whether effect and what follows from it were measured"),
        field("audited", pa.bool_(), "whether it was measured as one of the random sample"),
        _nats("null_specific", "specific effect on the loss of other prompts' answers", nullable=True),
        *_interval("null_specific", "that"),
        field("dla", pa.float64(), "what the head adds to the logit of the answers, mean over prompts", unit="logits"),
        field("dla_centred", pa.float64(), "the same, less the mean over the vocabulary", unit="logits"),
    ]
)  # fmt: skip

TASK_COUNTS = pa.schema(
    [
        *place_of_head(),
        _count("n_tasks", "tasks that the head serves", "tasks"),
        _count("n_families", "kinds of jobs among them", "families"),
        _nats("task_entropy", "entropy over the tasks it serves of its specific effect as a share of the task's gain; "
              "null with none", nullable=True),
        field("polysemantic", pa.bool_(), "whether it serves tasks of several families"),
        field("tasks", pa.list_(pa.field("element", pa.string())), "the tasks, the largest share of the gain first"),
    ]
)  # fmt: skip

DLA_SOURCES = pa.schema(
    [
        _TASK,
        *place_of_head(),
        field("offset", pa.int32(), "positions from the source to the question", unit="positions"),
        field("dla_centred", pa.float64(), "what the head adds to the centred logit from there, mean over prompts and "
              "questions that have such a source", unit="logits"),
        _share("attention", "mean attention there"),
        _count("n", "prompts and questions that have such a source", "questions"),
    ]
)  # fmt: skip

DLA_COMPONENTS = pa.schema(
    [
        _TASK,
        field("component", pa.string(), "embed, pos_embed, attn_bias, mlp, final_norm; heads: all; total: the logit"),
        field("layer", pa.int32(), "layer of the component, from 0; null where it has none", nullable=True),
        field("dla", pa.float64(), "what it adds to the logit of the answers, mean over prompts", unit="logits"),
        field("dla_centred", pa.float64(), "the same, less the mean over the vocabulary", unit="logits"),
    ]
)  # fmt: skip

PREFIX = pa.schema(
    [
        field("length", pa.int32(), "tokens of the repeated prefix", unit="tokens"),
        *place_of_head(),
        _count("n", "prompts", "prompts"),
        _share("attention", "mean attention from the prefix's last token to the token that followed it before"),
        _share("attention_low", "lower end of its 95% bootstrap interval; null for one prompt", nullable=True),
        _share("attention_high", "upper end of that interval", nullable=True),
        _share("control_attention", "mean attention to the same position in the controls, where another token stands"),
        field("dla_centred", pa.float64(), "what the head adds to the centred logit of the answer, mean over prompts",
              unit="logits"),
        field("dla_low", pa.float64(), "lower end of its interval; null for one prompt", unit="logits", nullable=True),
        field("dla_high", pa.float64(), "upper end of that interval", unit="logits", nullable=True),
    ]
)  # fmt: skip

PREFIX_CORRUPTED = pa.schema(
    [
        field("source", pa.string(), "synthetic: prompts of random tokens; text: natural text"),
        *place_of_head(),
        _count("n", "examples whose prefix has two tokens or more and was corrupted to one", "examples"),
        _share("before", "mean attention to the key with the whole prefix"),
        _share("after", "mean attention to it with the token before the prefix's last replaced"),
        _share("difference", "after minus before"),
        _share("difference_low", "lower end of its paired 95% bootstrap interval; null for one example", nullable=True),
        _share("difference_high", "upper end of that interval", nullable=True),
    ]
)

PREFIX_TEXT = pa.schema(
    [
        *place_of_head(),
        field("length", pa.int32(), "tokens of the prefix, case and leading spaces aside; 9: or more", unit="tokens"),
        _count("n", "queries that give one key, not BOS, over 0.3 of the attention after such a prefix", "queries"),
        _share("share", "of all such queries of the head"),
    ]
)  # fmt: skip

TASK_PROMPTS = pa.schema(
    [
        _TASK,
        _count("prompt", "number of the prompt, from 0", "prompt"),
        field("token_ids", _IDS, "the prompt; BOS behind shorter ones", unit="id", shape="[T]"),
        field("control_ids", _IDS, "its control", unit="id", shape="[T]"),
        field("positions", _IDS, "positions whose next token is asked for", unit="position", shape="[A]"),
        field("answer_ids", _IDS, "these tokens", unit="id", shape="[A]"),
    ]
)

TASK_LOSSES = pa.schema(
    [
        _TASK,
        field("layer", pa.int32(), "layer of the head that was ablated; null with nothing ablated", nullable=True),
        field("head", pa.int32(), "its place in the layer", nullable=True),
        _count("prompt", "number of the prompt, from 0", "prompt"),
        _nats("loss", "mean over the prompt's questions of -ln p of the answer"),
        _nats("control_loss", "the same on the control"),
        _nats("shuffled_loss", "loss of another prompt's answers on the prompt"),
        _nats("shuffled_control_loss", "the same on the control"),
    ]
)

TASK_DLA = pa.schema(
    [
        _TASK,
        *place_of_head(),
        _count("prompt", "number of the prompt, from 0", "prompt"),
        field("dla", pa.float64(), "what the head adds to the logit of the answers", unit="logits"),
        field("dla_centred", pa.float64(), "the same, less the mean over the vocabulary", unit="logits"),
        _share("attention", "attention from the question to the answer's source; null without one", nullable=True),
        _share("control_attention", "the same in the control", nullable=True),
        _share("corrupted_attention", "the same with the prefix corrupted; null where it is not", nullable=True),
    ]
)

SOURCE_SUMS = pa.schema(
    [
        _TASK,
        *place_of_head(),
        field("offset", pa.int32(), "positions from the source to the question", unit="positions"),
        field("dla_centred", pa.float64(), "sum over prompts and questions", unit="logits"),
        _share("attention", "the same sum of attention"),
        _count("n", "prompts and questions", "questions"),
    ]
)

PREFIX_EXAMPLES = pa.schema(
    [
        _count("window", "window of the text, from 0", "window"),
        *place_of_head(),
        field("query", pa.int32(), "position of the query", unit="position"),
        field("key", pa.int32(), "position of the key", unit="position"),
        field("length", pa.int32(), "tokens of the prefix", unit="tokens"),
        _share("attention", "attention to the key"),
        _share("corrupted_attention", "the same with the prefix corrupted; null where it is not", nullable=True),
    ]
)


def head_sums(d_head: int) -> pa.Schema:
    """What means and linear estimates are made from, of a model with heads of this width."""
    numbers = pa.list_(pa.field("element", pa.float64()), d_head)
    shape = f"[{d_head}]"
    return pa.schema(
        [
            _TASK,
            *place_of_head(),
            field("control", pa.bool_(), "whether the row is about controls"),
            field("gradient", numbers, "sum over prompts and positions of the gradient of the loss", shape=shape),
            field("product", pa.float64(), "of that gradient times what the head hands to W_O"),
            field("resampled", pa.float64(), "of it times what the partner's head hands over; 0 without partners"),
            field("sum", numbers, "sum over prompts, controls and their positions of what the head hands to W_O",
                  shape=shape),
            field("count", pa.int64(), "prompts and controls times positions, of that sum"),
            field("prompts", pa.int64(), "prompts, of the mean"),
        ]
    )  # fmt: skip
