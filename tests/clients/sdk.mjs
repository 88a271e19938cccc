// Calls every method that Depot's Node SDK has and prints, as JSON, what came back.
//
// Environment: DEPOT_API_URL, DEPOT_TOKEN (of the organization), PROJECT and BUILD (a project with
// an ended build), IMAGE (a tag in that project's registry, which is deleted).

import * as http2 from 'node:http2'
import {Code, ConnectError} from '@connectrpc/connect'
import {Timestamp} from '@bufbuild/protobuf'
import {depot} from '@depot/sdk-node'

const {DEPOT_TOKEN, PROJECT, BUILD, IMAGE} = process.env
const bearer = (token) => ({headers: {Authorization: `Bearer ${token}`}})
const organization = bearer(DEPOT_TOKEN)

// Remembers which methods of a service were called.
const never = new Set()
function watched(name, service) {
  Object.keys(service).forEach((method) => never.add(`${name}/${method}`))
  return new Proxy(service, {
    get(target, method) {
      never.delete(`${name}/${method}`)
      return target[method]
    },
  })
}

const projects = watched('core.ProjectService', depot.core.v1.ProjectService)
const builds = watched('core.BuildService', depot.core.v1.BuildService)
const usage = watched('core.UsageService', depot.core.v1.UsageService)
const organizations = watched('core.OrganizationService', depot.core.v1.OrganizationService)
const work = watched('build.BuildService', depot.build.v1.BuildService)
const images = watched('build.RegistryService', depot.build.v1.RegistryService)
const buildkit = watched('buildkit.BuildKitService', depot.buildkit.v1.BuildKitService)

const answers = {}
async function keep(name, call) {
  const message = await call
  answers[name] = message.toJson()
  return message
}
async function refused(name, call) {
  try {
    await call
    answers[name] = 'was not refused'
  } catch (error) {
    const {code, rawMessage} = ConnectError.from(error)
    answers[name] = {code: Code[code], message: rawMessage}
  }
}

// Projects.
const created = await keep(
  'createProject',
  projects.createProject({name: 'sdk', regionId: 'eu-central-1', cachePolicy: {keepGb: 30, keepDays: 7}, hardware: 5}, organization),
)
const {projectId} = created.project
await keep('getProject', projects.getProject({projectId}, organization))
await keep('updateProject', projects.updateProject({projectId, name: 'sdk renamed', hardware: 2}, organization))
await keep('listProjects', projects.listProjects({}, organization))
await keep('resetProject', projects.resetProject({projectId}, organization))
await refused('getProject.unknown', projects.getProject({projectId: '0000000000'}, organization))
await refused('listProjects.anonymous', projects.listProjects({}))

// Trust in CI providers.
const providers = [
  {case: 'github', value: {repositoryOwner: 'octo', repository: 'app'}},
  {case: 'circleci', value: {organizationUuid: '11111111-2222-3333-4444-555555555555', projectUuid: '99999999-8888-7777-6666-555555555555'}},
  {case: 'buildkite', value: {organizationSlug: 'acme', pipelineSlug: 'deploy'}},
]
for (const provider of providers) {
  await keep(`addTrustPolicy.${provider.case}`, projects.addTrustPolicy({projectId, provider}, organization))
}
const {trustPolicies} = await keep('listTrustPolicies', projects.listTrustPolicies({projectId}, organization))
for (const {trustPolicyId} of trustPolicies) {
  await keep('removeTrustPolicy', projects.removeTrustPolicy({projectId, trustPolicyId}, organization))
}
await keep('listTrustPolicies.removed', projects.listTrustPolicies({projectId}, organization))

// Tokens.
const token = await keep('createToken', projects.createToken({projectId, description: 'for a customer'}, organization))
const customer = bearer(token.secret)
await keep('updateToken', projects.updateToken({tokenId: token.tokenId, description: 'for another customer'}, organization))
await keep('listTokens', projects.listTokens({projectId}, organization))

// A build, from its beginning to its end, and a builder reached in between.
const begun = await keep('createBuild', work.createBuild({projectId}, customer))
const builder = bearer(begun.buildToken)
const place = {buildId: begun.buildId, platform: 1}
async function endpoint() {
  for await (const {connection} of buildkit.getEndpoint(place, builder)) {
    if (connection.case === 'active') return connection.value
  }
}
const active = await endpoint()
answers.endpoint = active.toJson()
await keep(
  'reportHealth',
  buildkit.reportHealth(
    (async function* () {
      yield place
      yield place
    })(),
    builder,
  ),
)
answers.workers = await listWorkers(active, {cert: active.cert.cert.cert, key: active.cert.key.key})
answers.workersWithoutCertificate = await listWorkers(active, {})
answers.running = (await builds.getBuild({buildId: begun.buildId}, organization)).toJson()
await keep('releaseEndpoint', buildkit.releaseEndpoint(place, builder))
await keep('finishBuild', work.finishBuild({buildId: begun.buildId, result: {case: 'success', value: {}}}, customer))
const failing = await work.createBuild({projectId}, customer)
await keep('finishBuild.error', work.finishBuild({buildId: failing.buildId, result: {case: 'error', value: {error: 'it broke'}}}, customer))

// What is kept of builds.
await keep('getBuild', builds.getBuild({buildId: begun.buildId}, customer))
await keep('getBuild.failed', builds.getBuild({buildId: failing.buildId}, customer))
answers.listed = []
for (let pageToken; ; ) {
  const listed = await builds.listBuilds({projectId, pageSize: 1, pageToken}, customer)
  answers.listed.push(listed.toJson())
  if (!listed.nextPageToken) break
  pageToken = listed.nextPageToken
}
const {buildSteps} = await keep('getBuildSteps', work.getBuildSteps({projectId: PROJECT, buildId: BUILD}, organization))
const talkative = buildSteps.find((step) => step.hasLogs)
await keep('getBuildStepLogs', work.getBuildStepLogs({projectId: PROJECT, buildId: BUILD, buildStepDigest: talkative.digest}, organization))
await keep('shareBuild', builds.shareBuild({buildId: BUILD}, organization))
await keep('stopSharingBuild', builds.stopSharingBuild({buildId: BUILD}, organization))

// Images.
await keep('listImages', images.listImages({projectId: PROJECT}, organization))
await keep('deleteImage', images.deleteImage({projectId: PROJECT, imageTags: [IMAGE]}, organization))
await keep('listImages.deleted', images.listImages({projectId: PROJECT}, organization))

// Usage and organizations.
const window = {startAt: Timestamp.fromDate(new Date(Date.now() - 3600_000)), endAt: Timestamp.fromDate(new Date(Date.now() + 3600_000))}
await keep('listProjectUsage', usage.listProjectUsage(window, organization))
await keep('getProjectUsage', usage.getProjectUsage({projectId: PROJECT, ...window}, organization))
await keep('getUsage', usage.getUsage(window, organization))
await keep('listOrganizations', organizations.listOrganizations({}, organization))

// The end of a customer.
await keep('deleteToken', projects.deleteToken({tokenId: token.tokenId}, organization))
await refused('getBuild.revoked', builds.getBuild({buildId: begun.buildId}, customer))
await keep('deleteProject', projects.deleteProject({projectId}, organization))
await refused('getProject.deleted', projects.getProject({projectId}, organization))

console.log(JSON.stringify({projectId, buildId: begun.buildId, answers, never: [...never]}, null, 2))
process.exit(0)

// Asks a builder for its workers, as any BuildKit client does first: the status of gRPC, or what TLS said.
function listWorkers({endpoint, serverName, caCert}, certificate) {
  return new Promise((resolve) => {
    const url = endpoint.replace('tcp://', 'https://')
    const session = http2.connect(url, {servername: serverName, ca: caCert.cert, ...certificate})
    const end = (answer) => {
      session.destroy()
      resolve(answer)
    }
    session.on('error', (error) => end(String(error.code)))
    session.on('close', () => end('closed'))
    const stream = session.request({
      ':method': 'POST',
      ':path': '/moby.buildkit.v1.Control/ListWorkers',
      ':authority': serverName,
      'content-type': 'application/grpc',
      te: 'trailers',
    })
    let status
    stream.on('response', (headers) => (status = headers['grpc-status']))
    stream.on('trailers', (trailers) => (status = trailers['grpc-status']))
    stream.on('error', (error) => end(String(error.code)))
    stream.on('end', () => end(`grpc-status ${status}`))
    stream.resume()
    // An empty message: no compression, no bytes.
    stream.end(Buffer.alloc(5))
  })
}
