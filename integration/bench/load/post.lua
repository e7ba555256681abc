-- The load of the keep-alive benchmark: one FHIR create, always the same, or, with
-- a third argument, of so many different request ids in turn, and with a fourth of
-- so many lengths. Arguments: file with the body, path, ids, lengths. The result goes to standard output as one line of "key value"
-- pairs that begins with "result".

function init(args)
   local f = assert(io.open(args[1], "rb"))
   local body = f:read("*a")
   f:close()
   requests_bytes, turn = {}, 0
   for i = 1, tonumber(args[3] or "1") do
      local fields = {
         ["Content-Type"] = "application/fhir+json",
         ["Accept"] = "application/fhir+json",
      }
      if args[3] then
         fields["X-Request-Id"] = string.format("%08x", i)
      end
      requests_bytes[i] = wrk.format("POST", args[2], fields, body .. string.rep(" ", i % tonumber(args[4] or "1")))
   end
end

function request()
   turn = turn % #requests_bytes + 1
   return requests_bytes[turn]
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      "result requests %d duration_us %d connect %d read %d write %d status %d timeout %d p50_us %d p99_us %d\n",
      summary.requests, summary.duration,
      e.connect, e.read, e.write, e.status, e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
