"""Prompt files of the demo's problems: `python -m models.prompts --split train --count 4000 > prompts.jsonl`."""

import argparse
import json
import sys

from models.wordproblems import word_problem


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.prompts", description=__doc__)
    parser.add_argument("--split", choices=("train", "held-out"), default="train")
    parser.add_argument("--first", type=int, default=0, help="number of the first problem")
    parser.add_argument("--count", type=int, default=4000)
    args = parser.parse_args()
    for index in range(args.first, args.first + args.count):
        problem = word_problem(args.split, index)
        print(json.dumps({"prompt": problem.prompt, "answer": str(problem.answer)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
