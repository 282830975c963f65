"""llama.cpp's own server, for the tests (tests/support/real_model.py): `python server.py OPTIONS`, a JSON object.

Its members are those of llama.cpp's parameters, by their paths (`sampling.temp`). It serves until it is killed.
"""

import json
import sys
import threading
from functools import reduce

import xllamacpp

parameters = xllamacpp.CommonParams()
for name, value in json.loads(sys.argv[1]).items():
    *places, last = name.split(".")
    setattr(reduce(getattr, places, parameters), last, value)
server = xllamacpp.Server(parameters)  # which serves for as long as it is there
threading.Event().wait()
