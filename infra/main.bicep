// What `azd up` makes: a resource group and all that the app needs in it, without a key or a password anywhere.
targetScope = 'subscription'

@minLength(1)
@maxLength(32)
@description('The name of the azd environment, of which all names are made')
param environmentName string

@description('The region; Flex Consumption and Azure Managed Redis have to be there')
@metadata({ azd: { type: 'location' } })
param location string

@description('Whether to deploy a model; without one the app plans with its built-in offline planner')
param deployModel bool = true

@description('A chat model that calls tools; also the name of its deployment')
param modelName string = 'gpt-5-mini'

@description('The version of the model; empty for the one that Azure gives by default')
param modelVersion string = ''

@allowed(['GlobalStandard', 'DataZoneStandard', 'Standard'])
@description('Where the model may be computed: worldwide, in a data zone, in the region')
param modelSku string = 'GlobalStandard'

@description('Quota of the model, in thousands of tokens per minute')
param modelCapacity int = 10

@description('The region of the model, where another one has the quota; empty for that of the rest')
param modelLocation string = ''

@description('Size of Redis: https://learn.microsoft.com/azure/redis/overview#choosing-the-right-tier')
param redisSku string = 'Balanced_B0'

@description('Whether Redis has a replica; without one, an update of it loses what is streamed, which is then restored')
param redisHighAvailability bool = false

@allowed(['NoCluster', 'OSSCluster'])
@description('OSSCluster above 25 GB, or where one core is not enough; only NoCluster can be changed later')
param redisClusteringPolicy string = 'NoCluster'

@allowed([512, 2048, 4096])
@description('Memory of an instance; 2048 comes with one core')
param instanceMemoryMB int = 2048

@minValue(1)
@maxValue(1000)
@description('Instances of the app at most, which bounds the cost')
param maximumInstanceCount int = 40

@minValue(0)
@description('Instances for HTTP that are paid for and warm all the time')
param alwaysReadyHttp int = 0

@minValue(0)
@description('Instances for runs that are paid for and warm all the time')
param alwaysReadyDurable int = 0

@minValue(1)
@maxValue(1000)
@description('Open requests of an instance, each follower being one; also how many followers one process serves')
param httpConcurrency int = 1000

@minValue(0)
@description('Days after the end of its newest run that a conversation is removed with all of its runs; 0 keeps everything')
param retentionDays int = 30

@allowed(['keys', 'easy_auth'])
@description('Who may call: whoever has a function key, or users who sign in with Microsoft Entra ID')
param auth string = 'keys'

@description('With easy_auth: the client id of the app registration that users sign in to')
param authClientId string = ''

@description('Origins of the other pages that may call the app, separated by commas, such as https://www.contoso.com')
param allowedOrigins string = ''

@description('Whether storage, Redis and the model are reached over a virtual network only')
param privateNetwork bool = false

@minValue(30)
@description('Days that logs and traces are kept')
param logRetentionDays int = 30

@minValue(1)
@description('Gigabytes of logs and traces a day, above which no more are taken')
param logDailyQuotaGb int = 1

var tags = { 'azd-env-name': environmentName }

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module resources 'resources.bicep' = {
  name: 'resources'
  scope: group
  params: {
    token: toLower(uniqueString(subscription().id, environmentName, location))
    location: location
    tags: tags
    deployModel: deployModel
    modelName: modelName
    modelVersion: modelVersion
    modelSku: modelSku
    modelCapacity: modelCapacity
    modelLocation: empty(modelLocation) ? location : modelLocation
    redisSku: redisSku
    redisHighAvailability: redisHighAvailability
    redisClusteringPolicy: redisClusteringPolicy
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    alwaysReadyHttp: alwaysReadyHttp
    alwaysReadyDurable: alwaysReadyDurable
    httpConcurrency: httpConcurrency
    retentionDays: retentionDays
    auth: auth
    authClientId: authClientId
    allowedOrigins: allowedOrigins
    privateNetwork: privateNetwork
    logRetentionDays: logRetentionDays
    logDailyQuotaGb: logDailyQuotaGb
  }
}

output AZURE_LOCATION string = location
output AZURE_RESOURCE_GROUP string = group.name
output AUTH string = auth
output FUNCTION_APP_ID string = resources.outputs.functionAppId
output FUNCTION_APP_NAME string = resources.outputs.functionAppName
output APP_URL string = resources.outputs.appUrl
output PAGE_URL string = '${resources.outputs.appUrl}/api/chat'
output FIRST_CALL string = 'curl -X POST ${resources.outputs.appUrl}/api/agents/TravelPlanner/run -H "x-functions-key: <key>" -H "Content-Type: text/plain" -d "Plan a 3-day trip to Tokyo"'
