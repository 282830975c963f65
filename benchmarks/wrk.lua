-- What each thread of wrk sends, and what is told when all have ended. See wrk.py.
local requests = dofile(os.getenv("REQUESTS"))
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("before", requests[threads][1])
  thread:set("after", requests[threads][2])
end

function init()
  sent = 0
end

function request()
  if after == nil then
    return before
  end
  sent = sent + 1
  return before .. sent .. after
end

function done(summary, latency)
  local failed = summary.errors
  local latencies = {}
  for part = 0, 999 do
    table.insert(latencies, latency:percentile(part / 10) / 1e6)
  end
  io.stderr:write(string.format(
    '{"requests": %d, "refused": %d, "lost": %d, "seconds": %f, "latencies": [%s]}',
    summary.requests, failed.status, failed.connect + failed.read + failed.write + failed.timeout,
    summary.duration / 1e6, table.concat(latencies, ", ")
  ))
end
