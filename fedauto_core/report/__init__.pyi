from . import budgets as budgets
from . import claims as claims
from . import contests as contests
from . import figures as figures
from . import history as history
from . import paper as paper
from . import prose as prose
from . import record as record
