"""Search an index by a question, written or spoken.

mrl-jax search INDEX "a question"
mrl-jax search INDEX --audio question.wav
mrl-jax search INDEX --microphone
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.paths import user_path
from mrl_jax.inference.model_option import MOVED_HELP, model_option

if TYPE_CHECKING:
    from mrl_jax.inference.index.search_index import Hit

SHOWN = 300
"""Characters of a text that are printed."""


def main(argv: Sequence[str], *, prog: str = "mrl-jax search") -> int:
    args = _parser(prog).parse_args(argv)
    from mrl_jax.core.compilation_cache import keep_compiled
    from mrl_jax.data.text.prompts import check_one_prompt
    from mrl_jax.inference.first_text import FirstText
    from mrl_jax.inference.index.microphone import check_microphone, record
    from mrl_jax.inference.index.open_index import open_index

    keep_compiled()
    check_one_prompt(args.task, args.prompt, "--task and --prompt")
    if args.microphone:
        check_microphone(args.seconds)
    first = None
    if args.text:
        first = FirstText(args.text, task=args.task, prompt=args.prompt)
    index = open_index(args.index, args.model, first)
    query: dict[str, Any] = {"text": [args.text]}
    if args.audio is not None:
        query = {"audio": [args.audio]}
    elif args.microphone:
        rate = index.embedder.model.speech.config.sample_rate
        query = {"audio": [(record(args.seconds, rate), rate)]}
    (hits,) = index.search(**query, k=args.k, task=args.task, prompt=args.prompt)
    for rank, hit in enumerate(hits, 1):
        print(_as_json(hit) if args.json else _as_text(rank, hit))
    return 0


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("index", type=user_path, metavar="INDEX", help="folder of an index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("text", nargs="?", metavar="TEXT", help="a written question")
    query.add_argument("--audio", type=user_path, help="a spoken one, a recording")
    query.add_argument(
        "--microphone", action="store_true", help="a spoken one, recorded now (takes sounddevice)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="to record; default: 5")
    parser.add_argument("-k", type=int, default=10, help="documents to find; default: 10")
    parser.add_argument("--task", help="of the model, whose prompt is put before the question")
    parser.add_argument("--prompt", help="or the prompt itself, word for word")
    parser.add_argument("--model", type=model_option, help=MOVED_HELP)
    parser.add_argument("--json", action="store_true", help="print a line of JSON a document")
    return parser


def _as_json(hit: "Hit") -> str:
    row = {"id": hit.id, "score": hit.score, "title": hit.title, "text": hit.text}
    fields = dict(hit.fields)
    return json.dumps({**row, "span": hit.span, "fields": fields}, ensure_ascii=False)


def _as_text(rank: int, hit: "Hit") -> str:
    text = " ".join(hit.text.split())
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    title = f"{hit.title}: " if hit.title else ""
    return f"{rank:>3}  {hit.score:.4f}  {hit.id}  {title}{text}"


if __name__ == "__main__":
    sys.exit(run_command(main))
