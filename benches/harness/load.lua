-- What wrk sends and says. With an argument it sends one pair a request, and never the same one: the argument is the run's own prefix.
local prefix
local sent = 0

function init(args)
  prefix = args[1]
  if prefix == nil then
    -- One request for all: built once.
    local request_text = wrk.format("GET", wrk.path)
    request = function() return request_text end
    return
  end
  local head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
  request = function()
    sent = sent + 1
    local body = '{"user_id": "' .. prefix .. "-" .. sent .. '", "segment": "segment-' .. (sent % 100) .. '"}'
    return head .. #body .. "\r\n\r\n" .. body
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'summary {"requests": %d, "micros": %d, "p99_micros": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
