// The life of a customer, with Depot's Node SDK and command line.
//
// Your platform holds an organization token. Each customer gets a project: a cache, builders, images and tokens of its own,
// that no other customer can reach. Nothing here knows that it does not talk to Depot: DEPOT_API_URL is all it takes.
//
//   npm install
//   DEPOT_API_URL=http://127.0.0.1:8080 DEPOT_TOKEN=cfd_org_… npx -c 'node customer.mjs'

import {spawnSync} from 'node:child_process'
import {fileURLToPath} from 'node:url'
import {depot} from '@depot/sdk-node'

const application = process.argv[2] ?? fileURLToPath(new URL('../hello', import.meta.url))
const {ProjectService, BuildService} = depot.core.v1
// The numbers of a build's status.
const STATUS = ['unknown', 'running', 'failed', 'success', 'error', 'canceled']
const records = depot.build.v1.BuildService
// Every call carries its token.
const platform = {headers: {Authorization: `Bearer ${process.env.DEPOT_TOKEN}`}}

// 1. A customer signs up: a project, and a token that is good for this project only. It is shown once: keep it safe.
const {project} = await ProjectService.createProject(
  {name: 'customer-from-node', regionId: 'us-east-1', cachePolicy: {keepGb: 10, keepDays: 7}},
  platform,
)
const {projectId} = project
const token = await ProjectService.createToken({projectId, description: 'builds of this customer'}, platform)
console.log(`project ${projectId} (${project.name})`)

// 2. The customer builds, twice: the second time the cache answers. This program needs no Docker.
for (const time of ['first', 'second']) {
  const base = process.env.BASE_IMAGE ? ['--build-arg', `BASE=${process.env.BASE_IMAGE}`] : []
  const {status} = spawnSync('depot', ['build', '--project', projectId, '--progress', 'plain', ...base, application], {
    stdio: ['ignore', 2, 2],
    env: {...process.env, DEPOT_TOKEN: token.secret},
  })
  if (status !== 0) throw new Error(`the ${time} build failed`)
}

// 3. The platform looks at the customer's builds, newest first, page by page: the last page has no token for a next one.
const builds = []
let pageToken
do {
  const page = await BuildService.listBuilds({projectId, pageSize: 1, pageToken}, platform)
  builds.push(...page.builds)
  pageToken = page.nextPageToken
} while (pageToken)
for (const build of builds) {
  console.log(
    `build ${build.buildId}: ${STATUS[build.status]}, ${build.cachedSteps} of ${build.totalSteps} steps cached, ` +
      `took ${build.buildDurationSeconds} s, saved ${build.savedDurationSeconds} s`,
  )
}

// 4. What the first build did: its steps, and what they wrote.
const buildId = builds.at(-1).buildId
const {buildSteps} = await records.getBuildSteps({projectId, buildId}, platform)
for (const step of buildSteps) {
  const seconds = step.completedAt ? (step.completedAt.toDate() - step.startedAt.toDate()) / 1000 : 0
  // An error is there or it is not: a step that went well has none, not an empty one.
  const outcome = step.error ?? (step.cacheState === 2 ? 'cached' : 'done')
  console.log(`  ${step.name}  ${seconds.toFixed(1)} s  ${outcome}`)
  if (!step.hasLogs) continue
  const {logs} = await records.getBuildStepLogs({projectId, buildId, buildStepDigest: step.digest}, platform)
  for (const line of logs) console.log(`    | ${line.message}`)
}

// 5. A cache that misbehaves is thrown away; the customer's next build starts from nothing.
await ProjectService.resetProject({projectId}, platform)
console.log('reset')

// 6. The customer leaves: cache, images, builds and tokens go.
await ProjectService.deleteProject({projectId}, platform)
console.log('deleted')
process.exit(0) // The SDK keeps its connection open.
