"""KBStyle: arbitrary artistic style transfer in 200 KB, the reference application of skd.

A reconstruction of the network of the paper KBStyle (IEEE TIP 33, 2024), which is public only as an abstract.
"""

from kbstyle_example.networks import STUDENT, TEACHER, KBStyle, KBStyleConfig

__all__ = ["STUDENT", "TEACHER", "KBStyle", "KBStyleConfig"]
