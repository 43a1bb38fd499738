import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from live.prompts import FIRST_ID, NUM_IDS
from live.tiny_model import CONFIG, VOCABULARY, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write(folder)
    return folder


def test_the_same_bytes_come_out_in_another_process_over_what_was_there(model, tmp_path):
    other = tmp_path / "model"
    other.mkdir()
    (other / "stale.json").touch()
    program = Path(__file__).parents[2] / "live/tiny_model.py"
    subprocess.run([sys.executable, program, other], check=True, timeout=60, env={"PYTHONHASHSEED": "7"})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }


def test_every_id_of_the_model_is_a_token_and_every_text_can_be_written(model):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCABULARY == json.loads((model / "config.json").read_text())["vocab_size"]
    text = 'Grüße, {"name": "f"} \N{SNOWMAN}\n\t'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_ids_that_stand_for_segments_are_in_the_vocabulary_and_none_is_special(model):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    special = [tokenizer.token_to_id(token) for token in ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|tool|>")]
    assert max(special) < FIRST_ID
    assert FIRST_ID + NUM_IDS <= VOCABULARY
    assert (CONFIG["bos_token_id"], CONFIG["eos_token_id"]) == tuple(special[:2])


def test_without_a_folder_it_says_how_it_is_called():
    program = Path(__file__).parents[2] / "live/tiny_model.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "usage: python live/tiny_model.py FOLDER\n"
