"""Sessions of a cluster: the API's own boxes for the episode, a worker's slot for the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

import cupel
from cluster_stage import cluster
from cupel import Client, Problem, RewardSpec, Testcase
from redis_stage import redis_server

pytestmark = [pytest.mark.redis, pytest.mark.slow]

SUM = Problem(
    tests=(
        Testcase(name="seen", input="1 2\n", output="3\n", tier=1, public=True),
        Testcase(name="unseen", input="3 4\n", output="7\n", tier=2),
    )
)


def test_an_episode_runs_beside_the_api_and_is_judged_by_a_worker(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, cluster(tmp_path, server) as stage:
        api = stage.api(CUPEL_SESSION_BOXES="1")
        stage.worker()
        with Client(api.url) as client:
            client.problems.add("sum", SUM)
            with client.session("sum", reward=RewardSpec()) as session:
                assert session.run("cat examples/1.in").stdout == "1 2\n"
                session.write("main.py", "print(3)\n")
                answer = session.submit("main.py")
                assert answer.rewards == {"reward": 0.0}
                (public,) = answer.feedback.public_tests
                assert (public.verdict, public.actual) == ("AC", "3\n")
                assert answer.feedback.hidden_tests.passed == 0
        plain = stage.api()
        with (
            Client(plain.url) as client,
            pytest.raises(cupel.ServiceFault, match="CUPEL_SESSION_BOXES"),
        ):
            client.execute("print(1)")
