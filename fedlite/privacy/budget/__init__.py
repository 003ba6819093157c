"""What a site lets be spent on its records, and the rules by which that adds up."""

from fedlite.privacy.budget.account import Account
from fedlite.privacy.budget.budget import WHYS, Budget, Refused
from fedlite.privacy.budget.plans import plan_unit
from fedlite.privacy.budget.spending import Spent

__all__ = ["WHYS", "Account", "Budget", "Refused", "Spent", "plan_unit"]
