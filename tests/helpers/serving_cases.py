"""The texts of the index that the tests of the service share."""

import tiny_run

TEXTS = [tiny_run.text_of((i % 5, i // 5)) for i in range(25)]
