"""A small Llama without weights for vLLM's CPU build: ``python live/tiny_model.py FOLDER``.

Started with ``--load-format dummy`` it computes with random weights: what it says means nothing, what it costs is real.
Needs the package tokenizers, which vLLM brings.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

VOCABULARY = 8192
_SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}

#: Renders tools, tool calls and tool results, or vLLM would drop them without a word.
CHAT_TEMPLATE = """\
{%- if tools %}<|system|>You may call these tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</s>
{% endif -%}
{%- for message in messages %}<|{{ message.role }}|>
{%- if message.tool_call_id is defined and message.tool_call_id %}[{{ message.tool_call_id }}] {% endif -%}
{%- if message.content %}{{ message.content }}{% endif -%}
{%- if message.tool_calls is defined and message.tool_calls %}
{%- for call in message.tool_calls %}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor -%}
{% endif %}</s>
{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}
"""

TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "model_max_length": CONFIG["max_position_embeddings"],
    "chat_template": CHAT_TEMPLATE,
}


def write(folder: Path) -> None:
    """The three files that vLLM needs beside weights, the same bytes every time.

    The folder holds all of them or is not there: they are made beside it, and it replaces one that was there.
    """
    made = folder.with_name(folder.name + ".part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    _tokenizer().save(str(made / "tokenizer.json"))
    _write(made / "config.json", CONFIG)
    _write(made / "tokenizer_config.json", TOKENIZER_CONFIG)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _tokenizer() -> Any:
    """A byte-level BPE: every text can be written with it. Ids from 6 on are bytes, then words of our made-up text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    return tokenizer


def _sentences() -> list[str]:
    """Made-up words: enough different ones to fill the vocabulary, the same every time."""
    rng = random.Random(0)
    parts = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is", "on")]
    words = ["".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(20_000)]
    return [" ".join(rng.choices(words, k=12)) + "." for _ in range(20_000)]


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python live/tiny_model.py FOLDER")
    write(Path(sys.argv[1]))
