"""What has to agree between the Bicep files, the app's settings and Azure's documentation: a list of what does not."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentstream.settings import Settings
from tests.unit.infra.bicep import Bicep, Declared

# Settings that Bicep already gives and the app does not read yet (docs/deploy.md tells of them).
ANNOUNCED = {"RETENTION_DAYS"}
# Settings of the host, of its worker and of the libraries in it.
HOSTS_OWN = {
    # https://learn.microsoft.com/azure/azure-functions/functions-reference#connecting-to-host-storage-with-an-identity
    "AzureWebJobsStorage__accountName",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
    # https://learn.microsoft.com/python/api/azure-identity/azure.identity.defaultazurecredential
    "AZURE_CLIENT_ID",
    "AZURE_TOKEN_CREDENTIALS",
    # https://learn.microsoft.com/azure/azure-functions/functions-app-settings
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY",
    "PYTHON_THREADPOOL_THREAD_COUNT",
    # https://opentelemetry.io/docs/zero-code/python/configuration/#excluded-urls
    "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS",
    # https://learn.microsoft.com/azure/app-service/configure-authentication-provider-aad
    "OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID",
}
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
ROLE_IDS = {
    "storageBlobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "storageQueueDataContributor": "974c5e8b-45b9-4653-ba55-5f855dd0fb88",
    "storageTableDataContributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
    "monitoringMetricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",
    "cognitiveServicesOpenAiUser": "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd",
}
# What each connection by identity needs, on a resource of which type.
ROLES = {
    "AzureWebJobsStorage__accountName": (
        "Microsoft.Storage/storageAccounts",
        {"storageBlobDataOwner", "storageQueueDataContributor", "storageTableDataContributor"},
    ),
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": ("Microsoft.Insights/components", {"monitoringMetricsPublisher"}),
    "AZURE_OPENAI_ENDPOINT": ("Microsoft.CognitiveServices/accounts", {"cognitiveServicesOpenAiUser"}),
}
# No key, no password, no public blob, nothing unencrypted: symbol, path, value.
HARDENED: list[tuple[str, str, object]] = [
    ("storage", "properties.allowSharedKeyAccess", False),
    ("storage", "properties.allowBlobPublicAccess", False),
    ("storage", "properties.minimumTlsVersion", "TLS1_2"),
    ("storage", "properties.supportsHttpsTrafficOnly", True),
    ("storage", "properties.publicNetworkAccess", "publicNetworkAccess"),
    ("package", "properties.publicAccess", "None"),
    ("redis", "properties.minimumTlsVersion", "1.2"),
    ("redis", "properties.publicNetworkAccess", "publicNetworkAccess"),
    ("database", "properties.accessKeysAuthentication", "Disabled"),
    ("database", "properties.clientProtocol", "Encrypted"),
    ("access", "properties.accessPolicyName", "default"),
    ("access", "properties.user.objectId", "identity.properties.principalId"),
    ("openAi", "properties.disableLocalAuth", True),
    ("openAi", "properties.publicNetworkAccess", "publicNetworkAccess"),
    ("logs", "properties.features.disableLocalAuth", True),
    ("insights", "properties.DisableLocalAuth", True),
    ("app", "properties.httpsOnly", True),
    ("app", "properties.siteConfig.minTlsVersion", "1.2"),
    ("app", "properties.siteConfig.scmMinTlsVersion", "1.2"),
    ("app", "properties.siteConfig.ftpsState", "Disabled"),
    ("app", "properties.functionAppConfig.deployment.storage.authentication.type", "UserAssignedIdentity"),
    ("ftp", "properties.allow", False),
    ("scm", "properties.allow", False),
    ("signIn", "properties.platform.enabled", "auth == 'easy_auth'"),
    ("signIn", "properties.globalValidation.requireAuthentication", True),
    ("signIn", "properties.globalValidation.excludedPaths", ["/api/health"]),
]
SECRET_FUNCTIONS = re.compile(r"\b(listKeys|listAccountSas|listServiceSas|getSecret|listConnectionStrings)\b|@secure")


def problems(texts: Mapping[str, str]) -> list[str]:
    """Return all that does not agree, each in one line; none where all does.

    Args:
        texts: The files of ``infra/``, by name.
    """
    files = {name: Bicep(text) for name, text in texts.items() if name.endswith(".bicep")}
    if broken := [f"{name}: a syntax error" for name, file in files.items() if file.has_errors]:
        return broken
    resources, roles = files["resources.bicep"], files["roles.bicep"]
    return [
        *(f"{name}: {problem}" for name, file in files.items() for problem in _names(file)),
        *(f"{name}: {problem}" for name, file in files.items() for problem in _modules(file, files)),
        *(f"{name}: asks for a secret" for name, text in texts.items() if SECRET_FUNCTIONS.search(text)),
        *_parameters(files["main.bicep"], json.loads(texts["main.parameters.json"])["parameters"]),
        *_settings(resources),
        *_addresses(resources),
        *_roles(resources, roles),
        *_hardened(resources),
    ]


def parameter_defaults(file: Bicep, given: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return of each parameter the environment variable that sets it and its default there, both in azd's notation."""
    found = {}
    for name, value in given.items():
        match = re.fullmatch(r"\$\{(\w+)(?:=(.*))?\}", value["value"])
        found[name] = (match[1], match[2] or "") if match else ("", value["value"])
    return found


def _names(file: Bicep) -> Iterator[str]:
    yield from (f"{name} is not declared" for name in sorted(file.used - file.declared))
    unused = (set(file.parameters) | set(file.variables)) - file.used
    yield from (f"{name} is not used" for name in sorted(unused))


def _modules(file: Bicep, files: Mapping[str, Bicep]) -> Iterator[str]:
    for module in file.modules:
        wanted = files[module.kind].parameters
        given = set(module.body["params"])
        yield from (f"{module.kind} has no parameter {name}" for name in sorted(given - set(wanted)))
        missing = {name for name, default in wanted.items() if default is None} - given
        yield from (f"{module.kind} needs the parameter {name}" for name in sorted(missing))
    outputs = {module.symbol: files[module.kind].outputs for module in file.modules}
    for symbol, name in re.findall(r"(\w+)!?\.outputs\.(\w+)", file.text):
        if name not in outputs.get(symbol, {}):
            yield f"{symbol} has no output {name}"


def _parameters(main: Bicep, given: Mapping[str, Any]) -> Iterator[str]:
    if set(given) != set(main.parameters):
        yield f"main.parameters.json: not the parameters of main.bicep: {sorted(set(given) ^ set(main.parameters))}"
    for name, (_, default) in parameter_defaults(main, given).items():
        wanted = main.parameters.get(name)
        if default != ("" if wanted is None else str(wanted).lower() if isinstance(wanted, bool) else str(wanted)):
            yield f"main.parameters.json: {name} is {default!r} by default and {wanted!r} in main.bicep"


def _settings(resources: Bicep) -> Iterator[str]:
    fields = {name.upper() for name in Settings.model_fields}
    for group, known in {
        "hostSettings": HOSTS_OWN,
        "signInSettings": HOSTS_OWN,
        "appSettings": fields | ANNOUNCED,
        "modelSettings": fields,
    }.items():
        names = resources.variables.get(group, {})
        yield from (f"{group}: nobody reads {name}" for name in names if name not in known)
        if group not in str(resources.resource("settings").at("properties")):
            yield f"{group} is not given to the app"


def _addresses(resources: Bicep) -> Iterator[str]:
    settings = resources.variables["appSettings"]
    url = "'rediss://${redis.properties.hostName}:${redis::database.properties.port}'"
    if settings.get("REDIS_CONNECTION_STRING") != url:
        yield "REDIS_CONNECTION_STRING is not the address of the database by TLS, without a database number"
    if resources.resource("database").at("properties.port") != 10000:
        yield "Azure Managed Redis listens on port 10000 only"
    scale = "properties.functionAppConfig.scaleAndConcurrency.triggers.http.perInstanceConcurrency"
    followers = f"string({resources.resource('app').at(scale)})"
    if settings.get("STREAM_MAX_FOLLOWERS") != followers:
        yield "an instance gets other numbers of requests than it has places for followers"


def _roles(resources: Bicep, roles: Bicep) -> Iterator[str]:
    if roles.variables["roleIds"] != ROLE_IDS:
        yield "roles.bicep: the ids of the roles are not those that Azure documents"
    assigned = dict(_assigned(roles))
    settings = {name for group in resources.variables.values() if isinstance(group, dict) for name in group}
    wanted = {kind: names for setting, (kind, names) in ROLES.items() if setting in settings}
    for kind in wanted.keys() | assigned.keys():
        needed, given = wanted.get(kind, set()), assigned.get(kind, set())
        yield from (f"roles.bicep: the app needs {name} on {kind}" for name in sorted(needed - given))
        yield from (f"roles.bicep: nothing needs {name} on {kind}" for name in sorted(given - needed))


def _assigned(roles: Bicep) -> Iterator[tuple[str, set[str]]]:
    """Yield the type of each resource on which roles are assigned to the app's identity, and which."""
    for assignment in roles.resources:
        if assignment.kind != "Microsoft.Authorization/roleAssignments":
            continue
        if assignment.at("properties.principalId") == "principalId" and assignment.body.get("scope"):
            kind = roles.resource(assignment.body["scope"]).kind
            yield kind, set(re.findall(r"roleIds\.(\w+)", roles.text_of(assignment.symbol)))
        else:
            yield "the resource group, or another identity", {assignment.symbol}


def _hardened(resources: Bicep) -> Iterator[str]:
    declared: dict[str, Declared] = {each.symbol: each for each in resources.resources}
    for symbol, path, wanted in HARDENED:
        found = declared[symbol].at(path) if symbol in declared else None
        if found != wanted:
            yield f"resources.bicep: {symbol}.{path} is {found!r} and has to be {wanted!r}"
    if resources.variables.get("publicNetworkAccess") != "privateNetwork ? 'Disabled' : 'Enabled'":
        yield "resources.bicep: a private network leaves public access open"
