"""SPF (RFC 7208): the public names of its parser, evaluator and static analysis.

`check_host` answers for one message whether its sender may use the domain; `analyse` reads the whole policy without
a sender. Both are generators of DNS questions, driven by `run` (recorded answers) or `run_async` (a live resolver):

    run(analyse("example.org"), recorded(answers))
    await run_async(analyse("example.org"), ask)
"""

from kattegat.plugins.mail.questions import Answer, NotRecorded, Question, join_texts, recorded, run, run_async
from kattegat.plugins.mail.spf_eval import Limits, Result, Step, check_host, identity
from kattegat.plugins.mail.spf_parse import (
    Mechanism,
    Modifier,
    Record,
    SpfSyntaxError,
    TermError,
    parse,
    parse_tolerant,
    select_records,
)
from kattegat.plugins.mail.spf_policy import DomainRecord, Policy, Problem, TermReport, analyse

__all__ = [
    "Answer",
    "DomainRecord",
    "Limits",
    "Mechanism",
    "Modifier",
    "NotRecorded",
    "Policy",
    "Problem",
    "Question",
    "Record",
    "Result",
    "SpfSyntaxError",
    "Step",
    "TermError",
    "TermReport",
    "analyse",
    "check_host",
    "identity",
    "join_texts",
    "parse",
    "parse_tolerant",
    "recorded",
    "run",
    "run_async",
    "select_records",
]
