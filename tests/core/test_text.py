"""What UTF-8 or a path has no place for: named where it enters, and readable in messages."""

import os
import subprocess
import sys

import pytest

from mrl_jax.core.cli import CommandParser
from mrl_jax.core.config import override
from mrl_jax.core.errors import MrlError, readable
from mrl_jax.core.files import make_folder, staged_folder, write_json, write_text
from mrl_jax.core.text import check_path_text, check_text, check_texts
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.demo.towers import make_tokenizer
from mrl_jax.training.contrastive.config import ExperimentConfig

LATIN_1 = os.fsdecode(b"set-\xe9")


@pytest.mark.parametrize("text", ["", "ñaata", "\U0001f600", "\ufffd", "\x01\u2028"])
def test_text_that_can_be_written_passes(text):
    check_text(text, "x")
    check_texts([text])
    assert readable(text) == text


@pytest.mark.parametrize("text", ["a\ud83d", "\udc00", "a\0b", LATIN_1])
def test_text_that_cannot_is_refused_by_name(text):
    with pytest.raises(MrlError, match=r"line 3: `text` holds (a NUL|half a surrogate)"):
        check_text(text, "`text`", where="line 3")
    with pytest.raises(MrlError, match="text 1: "):
        check_texts(["a", text])


def test_texts_are_strings():
    with pytest.raises(MrlError, match="text 1: is None, expected text"):
        check_texts(["a", None])


def test_readable_paths_show_their_bytes():
    assert readable(LATIN_1) == r"set-\xe9"
    assert readable("\ud800é") == r"\ud800é"
    assert str(MrlError("no such file", where=LATIN_1)) == r"set-\xe9: no such file"


def test_lines_are_short():
    line = str(MrlError("a" * 5000, where="b" * 5000, hint="c" * 5000))
    assert line.startswith("bbb")
    assert len(line) < 1200


def test_files_are_written_with_escapes(tmp_path):
    write_text(tmp_path / "a.txt", LATIN_1)
    write_json(tmp_path / "a.json", {"path": LATIN_1})
    assert (tmp_path / "a.json").read_text() == '{\n "path": "set-\\udce9"\n}\n'


def parse(*words):
    parser = CommandParser(prog="prog")
    parser.add_argument("--prompt")
    parser.add_argument("--data")
    parser.add_argument("words", nargs="*")
    return parser.parse_args(words)


def test_a_command_line_is_utf8_or_the_path_of_something(tmp_path):
    (tmp_path / LATIN_1).mkdir()
    folder = str(tmp_path / LATIN_1)
    assert parse("--data", folder).data == folder
    assert parse(f"data.train={folder}").words
    with pytest.raises(MrlError, match=r"prog: --prompt is '\\xff', neither UTF-8"):
        parse("--prompt", "\udcff")
    with pytest.raises(MrlError, match="neither UTF-8"):
        parse("a", f"data.train={folder}x")


def test_fields_of_a_config():
    with pytest.raises(MrlError, match=r"^data.batch.prompts .*holds half"):
        override(ExperimentConfig(name="x"), ["data.batch.prompts.x=\ud800"])


def test_outputs_have_utf8_paths(tmp_path):
    wrong = pytest.raises(MrlError, match=r"set-\\xe9: its path is not UTF-8")
    with wrong:
        make_folder(tmp_path / LATIN_1)
    with wrong, staged_folder(tmp_path / LATIN_1, marker="x"):
        pass
    with staged_folder(tmp_path / LATIN_1, marker="x", any_name=True) as staging:
        (staging / "x").touch()
    check_path_text(tmp_path, hint="")
    assert [path.name for path in tmp_path.iterdir()] == [LATIN_1]


def test_a_tokenizer_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / LATIN_1
    folder.mkdir()
    for name, data in make_tokenizer(["ba ce"]).items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    tokenizer = TextTokenizer(folder)
    assert tokenizer.encode(["ba"]) != tokenizer.encode(["ce"])
    with pytest.raises(MrlError, match="text 0: the text holds a NUL"):
        tokenizer.encode(["ba\0"])


def test_a_name_that_is_not_utf8_is_printed():
    script = (
        "from mrl_jax.core.cli import run_command\n"
        f"raise SystemExit(run_command(lambda argv: print({LATIN_1!r}) or 0, []))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"set-\\udce9\n"), done.stderr
