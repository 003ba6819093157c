"""What a site lets be spent on its records, and the rules by which that adds up."""

from fedlite.privacy.budget.account import Account
from fedlite.privacy.budget.budget import WHYS, Budget, Refused
from fedlite.privacy.budget.plans import plan_unit

__all__ = ["WHYS", "Account", "Budget", "Refused", "plan_unit"]
