import json
from itertools import pairwise

import numpy as np
import pytest
import yaml
from conftest import OBJECTS, save_image
from PIL import Image
from test_find import EXPECTED, objects

from detkit.data.formats import find_dataset, write_dataset
