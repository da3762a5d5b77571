-- What wrk sends and says. Arguments: the path, how many numbers its {n} goes through, and, where one pair a request is to be sent and never the
-- same one, the run's own prefix.
local sent = 0

function init(args)
  local path, numbers, prefix = args[1], tonumber(args[2]), args[3]
  if prefix == nil then
    -- Built once.
    local texts = {}
    for n = 1, numbers do
      texts[n] = wrk.format("GET", (path:gsub("{n}", n)))
    end
    request = function()
      sent = sent + 1
      return texts[sent % numbers + 1]
    end
    return
  end
  local head = "POST " .. path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
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
