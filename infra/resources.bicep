// The resources of the app, and its settings.

@description('Makes the names of this environment unlike all others')
param token string
param location string
param tags object
param deployModel bool
param modelName string
param modelVersion string
param modelSku string
param modelCapacity int
param modelLocation string
param redisSku string
param redisHighAvailability bool
param redisClusteringPolicy string
param instanceMemoryMB int
param maximumInstanceCount int
param alwaysReadyHttp int
param alwaysReadyDurable int
param httpConcurrency int
param retentionDays int
param auth string
param authClientId string
param allowedOrigins string
param privateNetwork bool
param logRetentionDays int
param logDailyQuotaGb int

// The model's address is made of it, so it is known where no model is deployed, too.
var modelAccountName = 'oai-${token}'
var publicNetworkAccess = privateNetwork ? 'Disabled' : 'Enabled'

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-${token}'
  location: location
  tags: tags
}

resource logs 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: 'log-${token}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: logRetentionDays
    workspaceCapping: { dailyQuotaGb: logDailyQuotaGb }
    features: { disableLocalAuth: true }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-${token}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: logs.id
    DisableLocalAuth: true
  }
}

// The durable state, and the package that is deployed.
resource storage 'Microsoft.Storage/storageAccounts@2025-06-01' = {
  name: 'st${token}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: {
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: publicNetworkAccess
    networkAcls: {
      defaultAction: privateNetwork ? 'Deny' : 'Allow'
      bypass: 'None'
    }
  }

  resource blobs 'blobServices' = {
    name: 'default'

    resource package 'containers' = {
      name: 'package'
      properties: { publicAccess: 'None' }
    }
  }
}

resource redis 'Microsoft.Cache/redisEnterprise@2025-07-01' = {
  name: 'redis-${token}'
  location: location
  tags: tags
  sku: { name: redisSku }
  properties: {
    minimumTlsVersion: '1.2'
    highAvailability: redisHighAvailability ? 'Enabled' : 'Disabled'
    publicNetworkAccess: publicNetworkAccess
  }

  resource database 'databases' = {
    name: 'default'
    properties: {
      accessKeysAuthentication: 'Disabled'
      clientProtocol: 'Encrypted'
      clusteringPolicy: redisClusteringPolicy
      // Over its memory it drops the streams that were written to least recently; they are restored when asked for.
      evictionPolicy: 'VolatileTTL'
      port: 10000
    }

    resource access 'accessPolicyAssignments' = {
      name: 'app'
      properties: {
        // The only policy that there is.
        accessPolicyName: 'default'
        user: { objectId: identity.properties.principalId }
      }
    }
  }
}

resource openAi 'Microsoft.CognitiveServices/accounts@2025-12-01' = if (deployModel) {
  name: modelAccountName
  location: modelLocation
  tags: tags
  kind: 'OpenAI'
  sku: { name: 'S0' }
  properties: {
    customSubDomainName: modelAccountName
    disableLocalAuth: true
    publicNetworkAccess: publicNetworkAccess
    networkAcls: { defaultAction: privateNetwork ? 'Deny' : 'Allow' }
  }

  resource model 'deployments' = {
    name: modelName
    sku: {
      name: modelSku
      capacity: modelCapacity
    }
    properties: {
      model: {
        format: 'OpenAI'
        name: modelName
        version: empty(modelVersion) ? null : modelVersion
      }
      versionUpgradeOption: 'OnceCurrentVersionExpired'
    }
  }
}

module roles 'roles.bicep' = {
  name: 'roles'
  params: {
    principalId: identity.properties.principalId
    storageName: storage.name
    insightsName: insights.name
    modelAccountName: deployModel ? openAi!.name : ''
  }
}

module network 'network.bicep' = if (privateNetwork) {
  name: 'network'
  params: {
    token: token
    location: location
    tags: tags
    storageId: storage.id
    redisId: redis.id
    modelAccountId: deployModel ? openAi!.id : ''
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: 'plan-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: { reserved: true }
}

var hostSettings = {
  AzureWebJobsStorage__accountName: storage.name
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identity.properties.clientId
  AZURE_CLIENT_ID: identity.properties.clientId
  AZURE_TOKEN_CREDENTIALS: 'ManagedIdentityCredential'
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.properties.clientId};Authorization=AAD'
  PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY: 'true'
  // FastAPI's instrumentation makes a span of every chunk that is sent. Where it is off, FastAPI makes three of a request
  // by itself; where it is on and leaves out all, neither makes any.
  OTEL_PYTHON_FASTAPI_EXCLUDED_URLS: '.*'
  PYTHON_THREADPOOL_THREAD_COUNT: '64'
}

var appSettings = {
  REDIS_CONNECTION_STRING: 'rediss://${redis.properties.hostName}:${redis::database.properties.port}'
  REDIS_ENTRA_ID: 'true'
  REDIS_CLUSTER: redisClusteringPolicy == 'OSSCluster' ? 'true' : 'false'
  STREAM_MAX_FOLLOWERS: string(httpConcurrency)
  AUTH: auth
  ALLOWED_ORIGINS: allowedOrigins
  RETENTION_DAYS: string(retentionDays)
}

var modelSettings = {
  AZURE_OPENAI_ENDPOINT: 'https://${modelAccountName}.openai.azure.com'
  AZURE_OPENAI_MODEL: modelName
}

// The app's identity stands in for a client secret:
// https://learn.microsoft.com/azure/app-service/configure-authentication-provider-aad#use-a-managed-identity-instead-of-a-secret-preview
var signInSettings = { OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID: identity.properties.clientId }

var warmHttp = alwaysReadyHttp > 0 ? [{ name: 'http', instanceCount: alwaysReadyHttp }] : []
var warmDurable = alwaysReadyDurable > 0 ? [{ name: 'durable', instanceCount: alwaysReadyDurable }] : []

resource app 'Microsoft.Web/sites@2024-11-01' = {
  name: 'func-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'app' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identity.id}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: privateNetwork ? network!.outputs.appSubnetId : null
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
      http20Enabled: true
      cors: { allowedOrigins: empty(allowedOrigins) ? [] : split(allowedOrigins, ',') }
    }
    functionAppConfig: {
      runtime: {
        name: 'python'
        version: '3.13'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${storage::blobs::package.name}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: concat(warmHttp, warmDurable)
        // By default Python gets one request for each instance, so one instance for each follower.
        triggers: { http: { perInstanceConcurrency: httpConcurrency } }
      }
    }
  }
  // Its first start reads the package and the durable state.
  dependsOn: [roles]

  resource settings 'config' = {
    name: 'appsettings'
    properties: union(
      hostSettings,
      appSettings,
      deployModel ? modelSettings : {},
      auth == 'easy_auth' ? signInSettings : {}
    )
  }

  resource signIn 'config' = {
    name: 'authsettingsV2'
    properties: {
      // Written in both modes: what a deployment does not name stays as it was.
      platform: { enabled: auth == 'easy_auth' }
      globalValidation: {
        requireAuthentication: true
        unauthenticatedClientAction: 'RedirectToLoginPage'
        redirectToProvider: 'azureactivedirectory'
        excludedPaths: ['/api/health']
      }
      httpSettings: { requireHttps: true }
      identityProviders: {
        azureActiveDirectory: {
          enabled: auth == 'easy_auth'
          registration: {
            clientId: authClientId
            clientSecretSettingName: 'OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID'
            openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
          }
          validation: { allowedAudiences: [authClientId, 'api://${authClientId}'] }
        }
      }
      login: { tokenStore: { enabled: false } }
    }
    // It names one of the settings.
    dependsOn: [settings]
  }

  // Passwords for publishing: nobody needs them.
  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }
}

output functionAppId string = app.id
output functionAppName string = app.name
output appUrl string = 'https://${app.properties.defaultHostName}'
