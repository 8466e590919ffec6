"""A contender's side of the protocol in src/bench/protocol.rs, which says what is asked. It stands before the script of a peer,
which ends by calling serve()."""

import os
import sys


def serve(answers):
    """Answers each line of standard input by the function of its name, which is given the number and the token ids."""
    # What libraries print is no answer.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, number, ids = line.rstrip("\n").split(" ")
        try:
            if name not in answers:
                raise ValueError(f"it is not asked for {name}")
            answer = answers[name](int(number), [int(token) for token in ids.split(",") if token])
        except Exception as error:
            answer = "cannot " + (str(error).strip() or type(error).__name__).splitlines()[0]
        print(answer, file=output, flush=True)
