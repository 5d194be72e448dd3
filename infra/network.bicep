// A virtual network of which the app is part, and private addresses in it for what the app talks to.

param token string
param location string
param tags object
param storageId string
param redisId string
@description('Empty where there is no model')
param modelAccountId string

var storageSuffix = environment().suffixes.storage
var always = [
  { group: 'blob', resourceId: storageId, zone: 'privatelink.blob.${storageSuffix}' }
  { group: 'queue', resourceId: storageId, zone: 'privatelink.queue.${storageSuffix}' }
  { group: 'table', resourceId: storageId, zone: 'privatelink.table.${storageSuffix}' }
  { group: 'redisEnterprise', resourceId: redisId, zone: 'privatelink.redis.azure.net' }
]
var withModel = [{ group: 'account', resourceId: modelAccountId, zone: 'privatelink.openai.azure.com' }]
var targets = concat(always, empty(modelAccountId) ? [] : withModel)

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'vnet-${token}'
  location: location
  tags: tags
  properties: {
    addressSpace: { addressPrefixes: ['10.0.0.0/16'] }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: '10.0.0.0/24'
          delegations: [{ name: 'app', properties: { serviceName: 'Microsoft.App/environments' } }]
        }
      }
      {
        name: 'endpoints'
        properties: { addressPrefix: '10.0.1.0/24' }
      }
    ]
  }
}

resource zones 'Microsoft.Network/privateDnsZones@2020-06-01' = [
  for target in targets: {
    name: target.zone
    location: 'global'
    tags: tags
  }
]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = [
  for (target, index) in targets: {
    parent: zones[index]
    name: 'link-${token}'
    location: 'global'
    tags: tags
    properties: {
      registrationEnabled: false
      virtualNetwork: { id: network.id }
    }
  }
]

resource endpoints 'Microsoft.Network/privateEndpoints@2024-05-01' = [
  for target in targets: {
    name: 'pe-${target.group}-${token}'
    location: location
    tags: tags
    properties: {
      subnet: { id: network.properties.subnets[1].id }
      privateLinkServiceConnections: [
        {
          name: target.group
          properties: {
            privateLinkServiceId: target.resourceId
            groupIds: [target.group]
          }
        }
      ]
    }
  }
]

resource records 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = [
  for (target, index) in targets: {
    parent: endpoints[index]
    name: 'default'
    properties: {
      privateDnsZoneConfigs: [{ name: target.group, properties: { privateDnsZoneId: zones[index].id } }]
    }
  }
]

output appSubnetId string = network.properties.subnets[0].id
