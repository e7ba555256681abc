-- The load of the keep-alive benchmark: one FHIR create, always the same.
-- Arguments: file with the body, path. The result goes to standard output as
-- one line of "key value" pairs that begins with "result".

function init(args)
   local f = assert(io.open(args[1], "rb"))
   local body = f:read("*a")
   f:close()
   request_bytes = wrk.format("POST", args[2], {
      ["Content-Type"] = "application/fhir+json",
      ["Accept"] = "application/fhir+json",
   }, body)
end

function request()
   return request_bytes
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      "result requests %d duration_us %d connect %d read %d write %d status %d timeout %d p50_us %d p99_us %d\n",
      summary.requests, summary.duration,
      e.connect, e.read, e.write, e.status, e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
