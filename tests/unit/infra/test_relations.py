"""The infrastructure agrees with the app, and each thing that could go wrong in it is noticed."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from agentstream.settings import Settings
from tests.unit.infra.bicep import Bicep
from tests.unit.infra.relations import ANNOUNCED, HOSTS_OWN, parameter_defaults, problems

REPOSITORY = Path(__file__).resolve().parents[3]
INFRA = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "infra").iterdir() if path.is_file()}
DEPLOY = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")

# What goes to Azure; all else that is tracked stays.
PACKAGE = {
    "agentstream",
    "callbacks.py",
    "function_app.py",
    "host.json",
    "redis_stream_handler.py",
    "requirements.txt",
    "travel_planner",
    "web",
}


def test_all_of_it_agrees() -> None:
    assert problems(INFRA) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        (
            "resources.bicep",
            "allowSharedKeyAccess: false",
            "allowSharedKeyAcess: false",
            "allowSharedKeyAccess is None",
        ),
        (
            "resources.bicep",
            "allowSharedKeyAccess: false",
            "allowSharedKeyAccess: true",
            "allowSharedKeyAccess is True",
        ),
        ("resources.bicep", "publicAccess: 'None'", "publicAccess: 'Blob'", "publicAccess is 'Blob'"),
        ("resources.bicep", "minimumTlsVersion: 'TLS1_2'", "minimumTlsVersion: 'TLS1_0'", "minimumTlsVersion"),
        ("resources.bicep", "'Disabled'\n      clientProtocol", "'Enabled'\n      clientProtocol", "accessKeysAuth"),
        ("resources.bicep", "objectId: identity", "objectId: redis", "objectId"),
        ("resources.bicep", "port: 10000", "port: 6380", "port 10000 only"),
        ("resources.bicep", "'rediss://", "'redis://", "by TLS"),
        ("resources.bicep", "properties.port}'\n", "properties.port}/0'\n", "without a database number"),
        ("resources.bicep", "REDIS_CLUSTER:", "REDIS_CLUSTERED:", "nobody reads REDIS_CLUSTERED"),
        ("resources.bicep", "AZURE_OPENAI_MODEL:", "AZURE_OPENAI_DEPLOYMENT:", "nobody reads AZURE_OPENAI_DEPLOYMENT"),
        ("resources.bicep", "AzureWebJobsStorage__clientId:", "AzureWebJobsStorage__client:", "nobody reads AzureWeb"),
        ("resources.bicep", "      hostSettings,\n", "", "hostSettings is not given to the app"),
        ("resources.bicep", "perInstanceConcurrency: httpConcurrency", "perInstanceConcurrency: 16", "other numbers"),
        ("resources.bicep", "identity.id}': {}", "identty.id}': {}", "identty is not declared"),
        ("resources.bicep", "    httpsOnly: true\n", "", "httpsOnly is None"),
        ("resources.bicep", "excludedPaths: ['/api/health']", "excludedPaths: ['/api']", "excludedPaths"),
        ("resources.bicep", "    redisId: redis.id\n", "", "needs the parameter redisId"),
        ("resources.bicep", "network!.outputs.appSubnetId", "network!.outputs.subnetId", "no output subnetId"),
        (
            "resources.bicep",
            "APPLICATIONINSIGHTS_AUTHENTICATION_STRING:",
            "REDIS_KEY_PREFIX:",
            "nothing needs monitoring",
        ),
        (
            "resources.bicep",
            "AZURE_CLIENT_ID: identity.properties.clientId",
            "AZURE_CLIENT_ID: app.listKeys()",
            "secret",
        ),
        ("resources.bicep", "resource plan 'Microsoft", "resource plan = 'Microsoft", "syntax error"),
        ("roles.bicep", "    roleIds.storageTableDataContributor\n", "", "needs storageTableDataContributor"),
        ("roles.bicep", "b7e6dc6d-f1e8", "b7e6dc6e-f1e8", "ids of the roles"),
        ("roles.bicep", "scope: openAi", "scope: storage", "needs cognitiveServicesOpenAiUser"),
        ("roles.bicep", "  scope: insights\n", "", "needs monitoringMetricsPublisher"),
        ("main.bicep", "    auth: auth\n", "", "needs the parameter auth"),
        ("main.bicep", "    auth: auth\n", "    auth: auth\n    user: auth\n", "has no parameter user"),
        ("main.bicep", "param modelCapacity int = 10", "param modelCapacity int = 20", "modelCapacity is '10'"),
        ("main.parameters.json", '"auth"', '"authentication"', "not the parameters of main.bicep"),
    ],
)
def test_whatever_breaks_it_is_told(file: str, before: str, after: str, told: str) -> None:
    assert INFRA[file].count(before) >= 1, "the mutation is out of date"

    found = problems(INFRA | {file: INFRA[file].replace(before, after, 1)})

    assert any(told in problem for problem in found), found


def test_what_is_announced_is_no_setting_yet_and_the_page_says_so() -> None:
    fields = {name.upper() for name in Settings.model_fields}

    assert fields & ANNOUNCED == set(), "the app reads it now: take it off ANNOUNCED, and off docs/deploy.md"
    section = DEPLOY.partition("## Not there yet")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z_]+)[=`]", section)) >= ANNOUNCED


def test_every_parameter_is_on_the_page_with_its_default() -> None:
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]*?)`? \|", DEPLOY, re.MULTILINE))
    given = json.loads(INFRA["main.parameters.json"])["parameters"]
    asked = {"AZURE_ENV_NAME", "AZURE_LOCATION"}

    defaults = dict(parameter_defaults(Bicep(INFRA["main.bicep"]), given).values())

    assert table == {name: default or "none" for name, default in defaults.items() if name not in asked}


class TestAzd:
    """azure.yaml, and what it refers to."""

    config = yaml.safe_load((REPOSITORY / "azure.yaml").read_text(encoding="utf-8"))

    def test_the_service_is_this_app_and_bears_the_name_that_bicep_tags(self) -> None:
        ((name, service),) = self.config["services"].items()

        assert service == {"project": ".", "host": "function", "language": "python"}
        assert f"'azd-service-name': '{name}'" in INFRA["resources.bicep"]

    def test_the_hooks_run_a_script_that_is_there(self) -> None:
        for hook in self.config["hooks"]["postdeploy"].values():
            _, script, argument = hook["run"].split()
            assert (REPOSITORY / script).is_file()
            assert argument == "--azure"

    def test_the_smoke_test_reads_what_bicep_puts_out(self) -> None:
        asked = set(re.findall(r"environ\[['\"](\w+)['\"]\]", INFRA["smoke_test.py"]))

        assert asked
        assert asked <= Bicep(INFRA["main.bicep"]).outputs.keys()


def test_the_python_is_the_newest_that_the_project_supports() -> None:
    runtime = Bicep(INFRA["resources.bicep"]).resource("app").at("properties.functionAppConfig.runtime")

    assert runtime == {"name": "python", "version": "3.13"}
    assert 'requires-python = ">=3.11,<3.14"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_only_the_app_goes_to_azure() -> None:
    patterns = [line for line in (REPOSITORY / ".funcignore").read_text(encoding="utf-8").split("\n") if line]
    names = {path.name for path in REPOSITORY.iterdir()} | {".azure", ".git", ".venv", ".devhost"}

    packed = {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)}

    assert packed <= PACKAGE
    assert packed >= PACKAGE - {"web"}


def test_the_local_settings_are_the_apps_or_the_hosts_too() -> None:
    values = json.loads((REPOSITORY / "local.settings.json").read_text(encoding="utf-8"))["Values"]
    of_a_local_host = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage", "PYTHON_ENABLE_INIT_INDEXING"}
    on_azure = Bicep(INFRA["resources.bicep"]).variables["hostSettings"]
    shared = values.keys() & on_azure.keys()

    assert values.keys() - of_a_local_host - HOSTS_OWN <= {name.upper() for name in Settings.model_fields}
    assert shared >= {"PYTHON_THREADPOOL_THREAD_COUNT", "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS"}
    assert {name: values[name] for name in shared} == {name: on_azure[name] for name in shared}


def test_the_host_tells_opentelemetry_and_traces_orchestrations() -> None:
    host = json.loads((REPOSITORY / "host.json").read_text(encoding="utf-8"))

    assert host["telemetryMode"] == "OpenTelemetry"
    # https://learn.microsoft.com/azure/azure-functions/durable/durable-functions-diagnostics#distributed-tracing
    assert host["extensions"]["durableTask"]["tracing"] == {"distributedTracingEnabled": True, "version": "V2"}
