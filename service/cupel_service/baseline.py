"""What an empty program of each interpreted language uses here: not charged to programs.

Compiled languages start from nothing worth measuring: a static baseline is within the noise.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping

from cupel.schema import Language
from cupel_sandbox.box import Box, Run
from cupel_service.errors import CannotServe
from cupel_service.languages import LanguageSetup

_log = logging.getLogger(__name__)

_RUNS = 3


def measure_baselines(box: Box, setups: Mapping[Language, LanguageSetup]) -> dict[Language, int]:
    """Runs an empty program of each interpreted language.

    Args:
        box: A box that nobody else uses meanwhile; left as new.
        setups: The languages of this host.

    Returns:
        The median peak memory per interpreted language, in bytes.

    Raises:
        CannotServe: An interpreter does not even run an empty program.
        SandboxError: The box failed.
    """
    baselines = {}
    for language, setup in setups.items():
        if setup.compile_argv is not None:
            continue
        box.put(setup.source_name, b"")
        run = Run(argv=setup.run_argv, environment=setup.environment)
        outcomes = list(box.run([run] * _RUNS))
        failed = next((outcome for outcome in outcomes if outcome.exit_code != 0), None)
        if failed is not None:
            raise CannotServe(
                f"an empty {language} program fails in a box "
                f"(exit code {failed.exit_code}, signal {failed.signal})",
                f"Check that {setup.run_argv[0]} works; `cupel doctor` says more",
            )
        baselines[language] = int(statistics.median(each.memory_bytes for each in outcomes))
        _log.info("baseline: %s uses %d bytes when empty", language, baselines[language])
        box.reset()
    return baselines
