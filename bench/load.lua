-- Posts one sentence after the other, and prints the result as JSON.
-- Arguments: file of sentences (one per line), name of the header field for the key, key.
function init(args)
  local headers = { ["Content-Type"] = "application/json", [args[2]] = args[3] }
  requests = {}
  for line in io.lines(args[1]) do
    local text = line:gsub('[\\"]', "\\%0")
    requests[#requests + 1] = wrk.format("POST", nil, headers, '{"text":"' .. text .. '"}')
  end
  at = 0
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%f,"failed":%d,"p50":%f,"p99":%f}\n',
    summary.requests, summary.duration / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
