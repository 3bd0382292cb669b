"""Contract exams: whether a user's classifier, attack or estimator keeps the promises that results rest on.

Each exam runs every check and reports all broken promises together::

    from robassay.testing import check_attack
    check_attack(MyAttack(steps=20))
"""

from robassay.testing.attacks import check_attack
from robassay.testing.classifiers import check_classifier
from robassay.testing.estimators import check_estimator
from robassay.testing.exam import ContractError, Result
from robassay.testing.nets import ExamNet, exam_images

__all__ = [
    "ContractError",
    "ExamNet",
    "Result",
    "check_attack",
    "check_classifier",
    "check_estimator",
    "exam_images",
]
