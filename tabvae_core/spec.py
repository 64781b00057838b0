"""`RefreshSpec`: the one description of a refresh.

It is the YAML file, the parameter model of the flow (Prefect draws its run form from it) and the record that a
release carries. Unknown keys are refused, values are frozen, and errors between fields are found before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from tabvae_core.errors import SpecError

__all__ = [
    "BalanceSpec",
    "ColumnOverride",
    "GateSpec",
    "Kind",
    "MarginSpec",
    "ModelSpec",
    "PolicySpec",
    "PrivacySpec",
    "RefreshSpec",
    "SampleSpec",
    "ScenarioSpec",
    "SourceSpec",
    "StorageSpec",
    "TargetSpec",
    "WorkspaceSpec",
    "apply_settings",
    "load_spec",
    "parse_spec",
    "read_mapping",
]

Scalar = str | int | float | bool | None
_SHORT = {"auc", "jsd", "uri", "url"}
"""Words of field names that titles write in capitals."""


class Kind(StrEnum):
    """What a column means, which decides the codec that learns it."""

    NUMBER = "number"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    IDENTIFIER = "identifier"
    TEXT = "text"
    CONSTANT = "constant"
    NESTED = "nested"


def _titled(name: str) -> str:
    words = [word.upper() if word in _SHORT else word for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _with_methods(schema: dict[str, Any]) -> None:
    """Offer the methods that are installed where the schema is made; the model itself takes any name."""
    from tabvae_core.synthesizers.registry import methods

    schema["enum"] = list(methods())


def _for_form(schema: dict[str, Any]) -> None:
    """Number the fields, so that a form shows them in this order wherever the schema was stored in between, and write
    an example into the help of a field, because forms do not show examples.
    """
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position
        if "examples" in field:
            field["description"] = f"{field.get('description', '')} For example: {_shown(field['examples'][0])}".strip()


def _shown(example: Any) -> str:
    if isinstance(example, dict):
        return ", ".join(f"{key}: {value}" for key, value in example.items())
    return ", ".join(map(str, example)) if isinstance(example, list) else str(example)


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_extra=_for_form,
        field_title_generator=lambda name, _: _titled(name),
        model_title_generator=lambda model: model.__name__.removesuffix("Spec"),
    )


class StorageSpec(_Part):
    """How to reach an object store. Secrets are named here, never written here."""

    endpoint_url: str | None = Field(default=None, examples=["http://127.0.0.1:9000"])
    """Endpoint of an S3-compatible store; empty: AWS_ENDPOINT_URL of the environment, else AWS itself."""
    region: str | None = Field(default=None, examples=["eu-central-1"])
    """Region of the bucket; empty: what the environment says."""
    credentials: str = Field(
        default="environment",
        pattern=r"^(environment|anonymous|env:[A-Z][A-Z0-9_]*|block:[a-z0-9-]+)$",
        examples=["block:lake"],
    )
    """environment: the usual AWS variables and profiles. env:LAKE reads LAKE_ACCESS_KEY_ID, LAKE_SECRET_ACCESS_KEY
    and LAKE_SESSION_TOKEN. block:NAME takes them from a Prefect block. anonymous: none."""


class SourceSpec(_Part):
    """The real table."""

    uri: str = Field(examples=["s3://lake/customers/", "data/customers.parquet"])
    """Parquet file or folder (many files, Hive partitions), on disk or any storage that fsspec opens."""
    columns: tuple[str, ...] | None = None
    """Columns to read, in this order; empty: all."""
    filters: tuple[str, ...] = Field(default=(), examples=[["signup_at >= '2024-01-01'"]])
    """Rows to read: those for which every condition holds."""
    date: str | None = Field(default=None, pattern=r"^(today|yesterday|\d{4}-\d{2}-\d{2})$", examples=["yesterday"])
    """What `{date}` in uri and filters stands for: a date, or today or yesterday in UTC when the run begins."""
    storage: StorageSpec = StorageSpec()
    """Access to the source."""

    @field_validator("uri")
    @classmethod
    def _uri(cls, value: str) -> str:
        return _checked_uri(value)


class TargetSpec(_Part):
    """Where releases of the synthetic table stand."""

    uri: str = Field(examples=["s3://lake/synthetic/customers"])
    """Folder that holds versions/, quarantine/ and the pointer current.json."""
    keep: int = Field(default=5, ge=1, le=1000)
    """Versions kept; older ones are removed after a publish, the current one never."""
    format: Literal["parquet", "delta", "iceberg"] = "parquet"
    """delta, iceberg: a table of that format follows the pointer as well, one commit for each release."""
    catalog: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,80}$", examples=["prod"])
    """Iceberg catalog as pyiceberg's own configuration names it; empty: a file beside the table, on a local disk."""
    catalog_table: str | None = Field(default=None, pattern=r"^[\w-]+(\.[\w-]+)+$", examples=["test_data.customers"])
    """Name of the Iceberg table with its namespace; empty: tabvae, and the last part of uri."""
    storage: StorageSpec = StorageSpec()
    """Access to the target."""

    @field_validator("uri")
    @classmethod
    def _uri(cls, value: str) -> str:
        return _checked_uri(value)


class WorkspaceSpec(_Part):
    """Where runs keep their records, checkpoints, models and not yet accepted tables."""

    uri: str = Field(default=".tabvae", examples=["s3://lake/tabvae-workspace"])
    """A folder that every worker of this refresh reaches; a local one when all steps run on one machine."""
    storage: StorageSpec = StorageSpec()
    """Access to the workspace."""

    @field_validator("uri")
    @classmethod
    def _uri(cls, value: str) -> str:
        return _checked_uri(value)


class ColumnOverride(_Part):
    """What the data alone does not say about a column; every field left out is inferred."""

    kind: Kind | None = None
    """Meaning of the column."""
    minimum: float | str | None = None
    """Smallest value allowed (number, or ISO date and time)."""
    maximum: float | str | None = None
    """Largest value allowed."""
    nullable: bool | None = None
    """false: no nulls are generated even where the source has some."""
    categories: tuple[Scalar, ...] | None = Field(default=None, min_length=1, max_length=256, examples=[["no", "yes"]])
    """Values that a category can have, with `privacy.epsilon`: known in public, so that none costs any budget."""
    decimals: int | None = Field(default=None, ge=0, le=15)
    """Digits after the point that a number has, with `privacy.epsilon`; empty: what its type has."""
    unlearnable: Literal["drop", "null", "refuse", "generate"] | None = None
    """For free text and nested columns: leave the column out, keep it with nulls only, stop the run, or (text alone)
    generate new text from words that many rows share."""


class ModelSpec(_Part):
    """The synthesizer and its training."""

    method: str = Field(default="vae", json_schema_extra=_with_methods)
    """Synthesizer: vae, gaussian_copula, copula_vae, ctgan, tabddpm, vae_basic, dp_marginals, or one that a package
    registers."""
    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Passes over the training rows; empty: follows from rows and columns."""
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Rows a step; empty: follows from rows."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate; empty: the method's own."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of the split, of training, and of nothing else."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", examples=["cuda:0"])
    """auto: a GPU when there is one, and several for `vae` in large batches; cuda:0: that one."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop training after so many seconds with the best model so far; makes results depend on the machine's speed."""
    max_rows: int = Field(default=1_000_000, ge=10)
    """Rows learned at most, chosen uniformly: it bounds memory, whatever the size of the table."""
    options: dict[str, Scalar] = Field(default_factory=dict)
    """Further options of the method."""


def _class_names(value: Any) -> Any:
    """Classes as text: YAML reads an unquoted 1 as a number and true as a boolean."""
    if not isinstance(value, Mapping):
        return value
    return {str(key).lower() if isinstance(key, bool) else str(key): item for key, item in value.items()}


def _at_most_whole(shares: Mapping[str, float]) -> None:
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares add up to {sum(shares.values()):.6g}, and must not exceed 1")


Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[dict[str, Share], BeforeValidator(_class_names)]


class BalanceSpec(_Part):
    """How often classes of one column occur: chosen, in place of learned."""

    column: str = Field(examples=["churned"])
    """A column of classes: a category, a boolean, or a number of few values."""
    shares: Shares = Field(default_factory=dict, examples=[{"yes": 0.5}])
    """Share of the rows, by class; classes left out divide the rest among themselves as they were learned."""
    counts: Annotated[dict[str, NonNegativeInt], BeforeValidator(_class_names)] = Field(default_factory=dict)
    """Rows, by class, in place of shares."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.shares) == bool(self.counts):
            raise ValueError("must have shares or counts of some classes, one of both")
        _at_most_whole(self.shares)
        return self

    def check_rows(self, rows: int) -> None:
        """Hold the counts against the rows of the table.

        Raises:
            SpecError: They are more.

        """
        if (total := sum(self.counts.values())) > rows:
            raise SpecError(
                f"sample.balance.counts add up to {total:,} rows, however {rows:,} are drawn",
                hint="raise sample.rows (--rows N), or lower the counts",
            )


class SampleSpec(_Part):
    """The synthetic table."""

    rows: int | None = Field(default=None, ge=1)
    """Rows; empty: as many as the source has."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Same seed, same model: the same bytes."""
    shards: int | None = Field(default=None, ge=1, le=1024)
    """Blocks drawn at the same time; empty: one a core. Does not change the result."""
    rows_per_file: int = Field(default=1_000_000, ge=1000)
    """Rows of each Parquet file at most."""
    given: dict[str, Scalar] = Field(default_factory=dict, examples=[{"segment": "premium"}])
    """Values fixed for every row; the other columns are drawn conditionally on them."""
    balance: BalanceSpec | None = None
    """Classes of one column in chosen numbers; the other columns are drawn conditionally on them."""
    max_tries: int = Field(default=100, ge=1)
    """Draws for each wanted row, on average, before a rule is called impossible."""

    @model_validator(mode="after")
    def _given_or_balanced(self) -> Self:
        if self.given and self.balance is not None:
            raise ValueError("given and balance exclude each other: how often classes occur is known over all rows")
        return self


class MarginSpec(_Part):
    """What a scenario changes about the distribution of one column."""

    scale: float | None = Field(default=None, allow_inf_nan=False, examples=[1.1])
    """Factor on every value of a number."""
    shift: float | None = Field(default=None, allow_inf_nan=False, examples=[500])
    """Added to every value of a number, after `scale`."""
    shares: Shares = Field(default_factory=dict, examples=[{"north": 0.4, "south": 0.6}])
    """Share of the rows, by class; classes left out keep their proportions among themselves."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.shares) == (self.scale is not None or self.shift is not None):
            raise ValueError("must have scale and shift of a number, or shares of classes")
        _at_most_whole(self.shares)
        return self


class ScenarioSpec(_Part):
    """A table that might be: some columns are changed, and the others follow as they were learned to."""

    given: dict[str, Scalar] = Field(default_factory=dict)
    """Values fixed for every row."""
    margins: dict[str, MarginSpec] = Field(default_factory=dict)
    """Distributions that change, by column."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.given and not self.margins:
            raise ValueError("must have given or margins, or it is no other than the base")
        if both := sorted(set(self.given) & set(self.margins)):
            raise ValueError(f"given and margins both name {', '.join(both)}")
        return self


class GateSpec(_Part):
    """What a table must pass to be published. Held-out rows are the measure; they never steer training."""

    holdout: float = Field(default=0.2, gt=0, lt=0.9)
    """Share of the source's rows kept from training for the proof."""
    max_column_jsd: float = Field(default=0.15, ge=0, le=1)
    """Largest Jensen-Shannon distance (base 2) of any column to the held-out rows, beyond the column's floor."""
    max_shape: float | None = Field(default=None, ge=0, le=100)
    """Largest mean column error, percent; empty: reported, not gated."""
    max_trend: float = Field(default=10.0, ge=0, le=100)
    """Largest mean error of pairwise association, percent, beyond its floor."""
    max_auc: float = Field(default=0.90, ge=0.5, le=1)
    """Largest AUC of boosted trees told to separate synthetic from held-out rows."""
    max_copies: float = Field(default=1.0, ge=0, le=100)
    """Largest share of synthetic rows equal to a training row, percentage points beyond the held-out rows' share."""
    attacks: bool = True
    """Attack the table, as docs/privacy.md says, and refuse it where an attack gains more than the limits below."""
    max_membership_auc: float = Field(default=0.55, ge=0.5, le=1)
    """Largest proven AUC of telling learned rows from others; proven is the near end of the 95 % interval."""
    max_risk: float = Field(default=0.1, ge=0, le=1)
    """Largest proven advantage of singling out, linking, inferring columns, or of values that are repeated."""
    max_rare_copies: float = Field(default=0.01, ge=0, le=1)
    """Largest proven share of rare training rows that are copied, beyond that of rare held-out rows."""
    max_exposed_risk: float = Field(default=0.3, ge=0, le=1)
    """Largest proven advantage of any attack on the most exposed 1 % of rows, or on a single column."""
    data_docs: bool = True
    """Write Great Expectations' Data Docs beside the release."""


class PrivacySpec(_Part):
    """What the model must not hold."""

    min_category_rows: int = Field(default=5, ge=1)
    """Categories of fewer rows are never learned; 1 learns all."""
    protect_extremes: int = Field(default=5, ge=1)
    """Each end of a number's range becomes the mean of this many outermost rows; 1 keeps the exact extremes."""
    near_copies: Literal["keep", "redraw"] = "keep"
    """Draw rows again that all but equal a training row unlike any other; why not by default: docs/privacy.md."""
    epsilon: float | None = Field(default=None, gt=0, le=1000, examples=[1.0])
    """Differential privacy of each release, one row more or less; empty: none. Methods that have none are refused."""
    delta: float = Field(default=1e-5, gt=0, lt=0.1)
    """Probability with which epsilon may not hold: far below one in the number of rows."""
    total_epsilon: float | None = Field(default=None, gt=0, examples=[3.0])
    """Epsilon of all releases of the source together, by the ledger; empty: recorded, not limited."""
    total_delta: float | None = Field(default=None, gt=0, lt=0.1)
    """Delta of all releases together; empty: as `delta`."""
    ledger: str | None = None
    """Folder of the ledger, for several specs over one source; empty: the target."""
    secure_noise: bool = False
    """Noise by exact arithmetic, without the low bits of floating point that can tell a value; slower."""

    @model_validator(mode="after")
    def _total(self) -> Self:
        if self.epsilon is None:
            if self.total_epsilon is not None:
                raise ValueError("total_epsilon needs epsilon: without it a release has no bound to add up")
            return self
        if self.near_copies == "redraw":
            raise ValueError("near_copies must not be redraw beside epsilon: it compares rows with real ones")
        if self.total_epsilon is not None and self.total_epsilon < self.epsilon:
            raise ValueError("total_epsilon must not be below epsilon: not even one release would fit")
        if self.total_delta is not None and self.total_delta < self.delta:
            raise ValueError("total_delta must not be below delta: not even one release would fit")
        return self


class PolicySpec(_Part):
    """When a refresh of a changed source trains anew, and when it only samples anew."""

    retrain: Literal["changed", "drifted", "required"] = "changed"
    """changed: whenever the source changed. drifted: when it drifted from the rows that the last model learned, beyond
    `max_drift`; else the last model draws a new table. required: only when the last model cannot be used any more."""
    max_drift: float = Field(default=0.05, ge=0, le=1)
    """Largest change of a column that needs no new model: Jensen-Shannon distance (base 2), or difference of the share
    of nulls, beyond what chance explains."""


class RefreshSpec(_Part):
    """One refresh of one table, from source to published release."""

    # In the order of the run form: what people change first stands first.
    name: str = Field(default="table", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$", examples=["customers"])
    """Name of the table in reports, run names and tags."""
    source: SourceSpec
    """The real table."""
    target: TargetSpec
    """Where releases go."""
    model: ModelSpec = ModelSpec()
    """The synthesizer."""
    sample: SampleSpec = SampleSpec()
    """The synthetic table."""
    rules: tuple[str, ...] = Field(default=(), examples=[["age > 0", "closed_at >= opened_at"]])
    """Conditions that every synthetic row satisfies (a null makes a condition true, as in SQL's CHECK)."""
    gates: GateSpec = GateSpec()
    """What must hold before it is published."""
    columns: dict[str, ColumnOverride] = Field(default_factory=dict)
    """What the data alone does not say."""
    unlearnable: Literal["drop", "null", "refuse", "generate"] = "generate"
    """Decision for free text and nested columns without one of their own; nested columns read generate as null."""
    drift: Literal["refuse", "accept"] = "refuse"
    """What to do when the source's columns differ from `expect_columns`."""
    expect_columns: dict[str, str] | None = None
    """Columns and Arrow types that the source must have; `tabvae init` writes them. Empty: whatever it has."""
    target_column: str | None = Field(default=None, examples=["churned"])
    """Column to predict when usefulness is measured."""
    scenarios: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")], ScenarioSpec] = Field(
        default_factory=dict
    )
    """Tables that might be, by name, for `tabvae simulate`; a refresh makes none of them."""
    privacy: PrivacySpec = PrivacySpec()
    """What the model must not hold."""
    policy: PolicySpec = PolicySpec()
    """When to train anew."""
    workspace: WorkspaceSpec = WorkspaceSpec()
    """Where runs keep their state."""

    @field_validator("scenarios")
    @classmethod
    def _scenarios(cls, value: dict[str, ScenarioSpec]) -> dict[str, ScenarioSpec]:
        if "base" in value:
            raise ValueError("no scenario may be named 'base': it is the table that the others are compared with")
        return value

    @model_validator(mode="after")
    def _between_fields(self) -> Self:
        if self.privacy.epsilon is not None and self.policy.retrain != "changed":
            raise ValueError("policy.retrain must be changed beside privacy.epsilon: drift is measured on real rows")
        if _same_place(self.source.uri, self.target.uri):
            raise ValueError("target.uri must not lie in source.uri or hold it: a release would become its own source")
        if _shows_in(self.workspace.uri, self.source.uri):
            raise ValueError("workspace.uri must not lie in source.uri: tables drawn there would become its own source")
        if self.source.columns is not None:
            known = set(self.source.columns)
            named: list[tuple[str, Iterable[str]]] = [
                ("columns", self.columns),
                ("sample.given", self.sample.given),
                ("sample.balance", [self.sample.balance.column] if self.sample.balance else []),
                ("scenarios", [name for one in self.scenarios.values() for name in (*one.given, *one.margins)]),
            ]
            for where, names in named:
                if unknown := sorted(set(names) - known):
                    raise ValueError(f"{where} names columns that source.columns leaves out: {', '.join(unknown)}")
            if self.target_column is not None and self.target_column not in known:
                raise ValueError(f"target_column must be one of source.columns, however: {self.target_column!r}")
        return self

    def to_yaml(self) -> str:
        """Write the spec as YAML, fields at their default left out."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _checked_uri(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if re.match(r"^[a-z0-9+]+://[^/]*:[^/]*@", value):
        raise ValueError("must not hold a password; name the credentials in `storage.credentials`")
    return value


def _same_place(a: str, b: str) -> bool:
    first, second = _folder(a), _folder(b)
    return first.startswith(second) or second.startswith(first)


def _shows_in(place: str, source: str) -> bool:
    """Whether a reader of a source would take up what lies in a place; names that begin with . or _ are passed over."""
    inner, outer = _folder(place), _folder(source)
    below = inner.removeprefix(outer)
    return inner.startswith(outer) and not any(part[0] in "._" for part in below.split("/") if part)


def _folder(uri: str) -> str:
    return (str(Path(uri).absolute()) if "://" not in uri else uri).rstrip("/") + "/"


def parse_spec(data: Mapping[str, Any], *, where: str = "spec") -> RefreshSpec:
    """Validate a mapping as a spec.

    Raises:
        SpecError: Names every wrong field with its path, and the allowed keys for an unknown one.

    """
    try:
        return RefreshSpec.model_validate(data)
    except ValidationError as error:
        lines = [_one_line(detail) for detail in error.errors(include_url=False, include_input=False)]
        raise SpecError(
            f"{where}: " + "; ".join(lines), hint="`tabvae init SOURCE` writes a valid spec to compare with"
        ) from None


def _one_line(detail: Any) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{path} is not a known key{_near(path)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    message = f"{message[:1].lower()}{message[1:]}"
    return f"{path}: {message}" if path else message


def _near(path: str) -> str:
    import difflib

    *parents, key = path.split(".")
    model: Any = RefreshSpec
    for parent in parents:
        field = model.model_fields.get(parent) if hasattr(model, "model_fields") else None
        annotation = getattr(field, "annotation", None)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    close = difflib.get_close_matches(key, list(model.model_fields), n=1)
    return f", did you mean {close[0]!r}?" if close else f" (known: {', '.join(model.model_fields)})"


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping: a spec, or a part of one.

    Raises:
        SpecError: The file is missing, is not YAML, or holds something else.

    """
    file = Path(path)
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"spec {file} does not exist", hint="`tabvae init SOURCE -o refresh.yaml` writes one") from None
    except IsADirectoryError:
        raise SpecError(f"spec {file} is a folder", hint="name the YAML file of the refresh") from None
    except UnicodeDecodeError:
        raise SpecError(f"spec {file} is not a text file", hint="name the YAML file of the refresh") from None
    except OSError as error:
        reason = (error.strerror or error.__class__.__name__).lower()
        raise SpecError(f"spec {file} cannot be read: {reason}", hint="check that this user may read it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"spec {file}{line} is not valid YAML", hint="check indentation, colons and quotes") from None
    if not isinstance(data, dict):
        what = "it is empty" if data is None else f"it is a {'list' if isinstance(data, list) else 'single value'}"
        raise SpecError(
            f"spec {file} must be a mapping of keys, however {what}",
            hint="`tabvae init SOURCE` writes a valid spec to compare with",
        )
    return data


def load_spec(path: str | Path, settings: tuple[str, ...] = ()) -> RefreshSpec:
    """Read a spec from a YAML file and apply `key=value` settings on top.

    Raises:
        SpecError: The file is missing, is not YAML, or does not describe a refresh.

    """
    return parse_spec(apply_settings(read_mapping(path), settings), where=f"spec {path}")


def apply_settings(data: Mapping[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Apply `a.b=value` settings to a mapping; values are read as YAML scalars or lists.

    Raises:
        SpecError: A setting is not of the form key=value, or its key goes through something that is no mapping.

    """
    result: dict[str, Any] = _deep_copy(data)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key.strip():
            raise SpecError(
                f"setting must be key=value, however: {setting!r}", hint="for example --set model.epochs=20"
            )
        try:
            value = yaml.safe_load(text) if text.strip() else None
        except yaml.YAMLError:
            value = text
        *parents, last = key.strip().split(".")
        place = result
        for parent in parents:
            step = place.setdefault(parent, {})
            if not isinstance(step, dict):
                raise SpecError(f"setting {key!r}: {parent!r} holds a value, not further keys")
            place = step
        place[last] = value
    return result


def _deep_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}
