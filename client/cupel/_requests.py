"""One request builder for both clients: what is sent for each call, and how its answer is read.

Nothing here does I/O. A `Call` holds the exact bytes of a request, so that a retry sends the same.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Generic, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from cupel._retry import RetryPolicy
from cupel.errors import (
    ConnectionLost,
    CupelError,
    InvalidRequest,
    NotFound,
    Overloaded,
    Refused,
    RequestTooLarge,
    ServiceFault,
    ServiceUnavailable,
    SessionEnded,
    Timeout,
    Unauthorized,
    UnexpectedAnswer,
)
from cupel.schema import (
    Health,
    Identifier,
    Info,
    Judgement,
    JudgementsResponse,
    Language,
    Problem,
    ProblemDetails,
    ProblemList,
    ProblemSummary,
    Stop,
    Submission,
)

DEFAULT_URL = "http://127.0.0.1:8400"
JUDGEMENTS_PATH = "/v1/judgements"
REWARDS_PATH = "/v1/rewards"
NDJSON = "application/x-ndjson"
CONNECT_TIMEOUT_S = 10.0
READY_PAUSE_S = 0.1

_identifier: TypeAdapter[str] = TypeAdapter(Identifier)
_Answer = TypeVar("_Answer")
_Model = TypeVar("_Model", bound=BaseModel)


class SubmissionFields(TypedDict, total=False):
    """The fields of a Submission, for callers who rather write keywords."""

    id: str | None
    problem: str | Problem
    language: Language | str | None
    source: str | None
    completion: str | None
    stop: Stop | str
    coverage: int | None
    probe_endless: bool


@dataclass(frozen=True, slots=True)
class Call(Generic[_Answer]):
    """One request and how to read its answer.

    Args:
        method: The HTTP method.
        path: The path and query below the service's URL.
        parse: Turns the body of a good answer into its value.
        body: What is sent, or None.
        content_type: The media type of `body`.
        accept: The media type wanted.
        also_good: Statuses other than 2xx whose body is an answer too.
        key: The request's name: the service answers a repetition from what it did already.
        work_s: How long the work itself may keep the answer waiting, in seconds, on top of the
            client's timeout.
    """

    method: str
    path: str
    parse: Callable[[bytes], _Answer]
    body: bytes | None = None
    accept: str = "application/json"
    also_good: frozenset[int] = frozenset()
    key: str | None = None
    content_type: str = "application/json"
    work_s: float = 0.0

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request as the client's transport sends it."""
        headers = {"accept": self.accept}
        if self.body is not None:
            headers["content-type"] = self.content_type
        if self.key is not None:
            headers["idempotency-key"] = self.key
        timeout = http.timeout.as_dict()
        if timeout["read"] is not None:
            timeout["read"] += self.work_s
        return http.build_request(
            self.method,
            self.path,
            content=self.body,
            headers=headers,
            timeout=httpx.Timeout(**timeout),
        )

    def answer(self, response: httpx.Response) -> _Answer:
        """Reads a response whose body has been received.

        Raises:
            CupelError: The answer is an error, or not what the API promises.
        """
        if not response.is_success and response.status_code not in self.also_good:
            raise error_of(response)
        return self.parse(response.content)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a client's service is and how it is spoken to.

    Args:
        url: The service's root, without a slash at the end.
        api_key: Sent as a bearer token; empty for none.
        timeout_s: Longest silence while waiting for an answer, in seconds.
        retry: Which pauses are made before a request is sent again.
    """

    url: str
    api_key: str
    timeout_s: float
    retry: RetryPolicy

    @classmethod
    def resolve(
        cls,
        url: str | None,
        api_key: str | None,
        timeout_s: float,
        patience_s: float,
        retry_pause_s: float,
    ) -> Settings:
        """Fills in CUPEL_URL and CUPEL_API_KEY and checks the values.

        Raises:
            InvalidRequest: The URL has no http:// or https://, or a number is out of range.
        """
        url = (url or os.environ.get("CUPEL_URL") or DEFAULT_URL).rstrip("/")
        api_key = os.environ.get("CUPEL_API_KEY", "") if api_key is None else api_key
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"url {url!r} must begin with http:// or https://")
        if not (timeout_s > 0 and patience_s >= 0 and retry_pause_s >= 0):
            raise InvalidRequest(
                "timeout_s must be positive; patience_s and retry_pause_s must not be negative"
            )
        if not (api_key.isascii() and (api_key.isprintable() or not api_key)):
            raise InvalidRequest("the API key must be printable ASCII")
        retry = RetryPolicy(patience_s, retry_pause_s, overload_wait_s=timeout_s)
        return cls(url, api_key, timeout_s, retry)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def timeout(self) -> httpx.Timeout:
        """The timeouts of every request; waiting for a free connection is not limited."""
        connect_s = min(self.timeout_s, CONNECT_TIMEOUT_S)
        return httpx.Timeout(self.timeout_s, connect=connect_s, pool=None)

    @property
    def use_proxies(self) -> bool:
        """Whether proxies of the environment apply: never for a service on this machine."""
        host = httpx.URL(self.url).host
        try:
            return not ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Turns the transport's errors into Cupel's, once, at the boundary.

        Raises:
            CupelError: In place of any error of httpx.
        """
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceUnavailable(
                f"no Cupel service answers at {self.url} ({error or 'connect timeout'}): "
                "start one with `cupel serve`, or set CUPEL_URL to where one runs"
            ) from error
        except httpx.TimeoutException as error:
            raise Timeout(
                f"no answer from {self.url} within {self.timeout_s:g} s: "
                "raise timeout_s or send smaller batches"
            ) from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise ConnectionLost(f"the connection to {self.url} broke: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnexpectedAnswer(f"cannot speak with {self.url}: {error}") from error


def error_of(response: httpx.Response) -> CupelError:
    """The error that a response other than 2xx stands for; its body has been received."""
    status = response.status_code
    details = _problem_details(response)
    text, errors = details.detail or details.title, details.errors
    if status == httpx.codes.UNAUTHORIZED or status == httpx.codes.FORBIDDEN:
        remedy = "set CUPEL_API_KEY or pass api_key"
        return Unauthorized(f"{text} ({remedy})", status=status, errors=errors)
    if status == httpx.codes.GONE:
        return SessionEnded(text, status=status, by_host=details.by_host is not False)
    retry_after_s = parse_retry_after(response.headers.get("retry-after"))
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return ServiceUnavailable(f"the service does not accept work now: {text}", retry_after_s)
    if status == httpx.codes.BAD_GATEWAY:
        return ServiceUnavailable(f"no Cupel service behind the proxy now: {text}", retry_after_s)
    if status < httpx.codes.BAD_REQUEST:
        return UnexpectedAnswer(f"HTTP {status}: {text}; is this the URL of a Cupel service?")
    kinds: dict[int, type[Refused]] = {
        httpx.codes.NOT_FOUND: NotFound,
        httpx.codes.REQUEST_ENTITY_TOO_LARGE: RequestTooLarge,
        httpx.codes.TOO_MANY_REQUESTS: Overloaded,
    }
    other = ServiceFault if status >= httpx.codes.INTERNAL_SERVER_ERROR else InvalidRequest
    kind = kinds.get(status, other)
    return kind(text, status=status, errors=errors, retry_after_s=retry_after_s)


def _problem_details(response: httpx.Response) -> ProblemDetails:
    try:
        return ProblemDetails.model_validate_json(response.content)
    except ValidationError:  # a proxy's page, or a service that is not Cupel
        shown = " ".join(response.text.split())[:200]
        title = f"HTTP {response.status_code} {response.reason_phrase} {shown}".rstrip()
        return ProblemDetails(title=title, status=response.status_code)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (a number or a date), or None without a usable one."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:  # RFC 9110: HTTP dates are always GMT
            date = date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def reads(model: type[_Model]) -> Callable[[bytes], _Model]:
    """A parser of JSON documents of one model.

    Returns:
        A function from the body to the model, which raises UnexpectedAnswer for anything else.
    """

    def parse(body: bytes) -> _Model:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            shown = body[:100].decode("utf-8", "replace")
            raise UnexpectedAnswer(
                f"not the answer of a Cupel service of this version: expected {model.__name__}, "
                f"got {shown!r} ({error.error_count()} faults)"
            ) from error

    return parse


def as_invalid_request(what: str, error: ValidationError) -> InvalidRequest:
    """The error of a document that the schema refuses, before it is sent."""
    return InvalidRequest(
        f"not a valid {what}",
        errors=[
            ".".join(str(part) for part in ("", *fault["loc"])).lstrip(".") + ": " + fault["msg"]
            for fault in error.errors(include_input=False, include_url=False)
        ],
    )


def to_submission(submission: Submission | None, fields: SubmissionFields) -> Submission:
    """A submission from either form, with an id: what was given, or a new unique one.

    Raises:
        InvalidRequest: Both forms or neither were given, or the fields are not valid.
    """
    if submission is None:
        try:
            submission = Submission.model_validate(fields)
        except ValidationError as error:
            raise as_invalid_request("submission", error) from error
    elif fields:
        raise InvalidRequest("give a Submission or keywords, not both")
    if submission.id is not None:
        return submission
    return submission.model_copy(update={"id": uuid.uuid4().hex})


def to_json(model: BaseModel, *, without: frozenset[str] = frozenset()) -> bytes:
    """The document as sent: absent fields are left out, so that an older service can read it."""
    return model.model_dump_json(exclude_none=True, exclude=set(without)).encode()


def new_key() -> str:
    """A name for one request, under which it may be repeated."""
    return str(uuid.uuid4())


def judge_call(submission: Submission, *, urgent: bool) -> Call[Judgement]:
    """Judges one submission, which has its id."""
    read = reads(JudgementsResponse)

    def parse(body: bytes) -> Judgement:
        judgements = read(body).judgements
        if len(judgements) != 1:
            raise UnexpectedAnswer(f"expected one judgement, got {len(judgements)}")
        return judgements[0]

    body = submissions_body([to_json(submission)], urgent=urgent)
    return Call("POST", JUDGEMENTS_PATH, parse, body, key=new_key())


def submissions_body(submissions: Iterable[bytes], *, urgent: bool) -> bytes:
    """A JudgementsRequest of submissions that are JSON already."""
    end = b'],"urgent":true}' if urgent else b"]}"
    return b'{"submissions":[' + b",".join(submissions) + end


def add_problem_call(problem_id: str, problem: Problem) -> Call[ProblemSummary]:
    """Registers a problem, or replaces it."""
    return Call("PUT", _problem_path(problem_id), reads(ProblemSummary), to_json(problem))


def get_problem_call(problem_id: str) -> Call[ProblemSummary]:
    """Reads what may be read of a problem."""
    return Call("GET", _problem_path(problem_id), reads(ProblemSummary))


def list_problems_call() -> Call[tuple[ProblemSummary, ...]]:
    """Reads the list of problems."""
    read = reads(ProblemList)
    return Call("GET", "/v1/problems", lambda body: read(body).problems)


def delete_problem_call(problem_id: str) -> Call[None]:
    """Removes a problem."""
    return Call("DELETE", _problem_path(problem_id), lambda _: None)


def info_call() -> Call[Info]:
    """Reads what the service runs on."""
    return Call("GET", "/v1/info", reads(Info))


def ready_call() -> Call[Health]:
    """Asks whether the service takes work; "not yet" is an answer, too."""
    not_yet = frozenset({int(httpx.codes.SERVICE_UNAVAILABLE)})
    return Call("GET", "/readyz", reads(Health), also_good=not_yet)


def _problem_path(problem_id: str) -> str:
    try:
        return "/v1/problems/" + _identifier.validate_python(problem_id)
    except ValidationError as error:
        raise InvalidRequest(
            f"{problem_id!r} is not a problem's id: use letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit, at most 128"
        ) from error
