-- Shared by the load scripts: counts answers by kind, reads the tokens out of the usage object, and prints one
-- machine-readable line that tests/load/run.sh puts into its table.
local M = {}
local threads = {}

function M.setup(thread)
  table.insert(threads, thread)
end

function M.init()
  ok, refused, failed, tokens = 0, 0, 0, 0
end

function M.response(status, headers, body)
  if status == 200 then
    ok = ok + 1
    local n = body:match('"completion_tokens":(%d+)')
    if n then tokens = tokens + tonumber(n) end
  elseif status == 429 then
    refused = refused + 1
  else
    failed = failed + 1
  end
end

function M.done(summary, latency)
  local sum = { ok = 0, refused = 0, failed = 0, tokens = 0 }
  for _, t in ipairs(threads) do
    for k in pairs(sum) do sum[k] = sum[k] + (t:get(k) or 0) end
  end
  local seconds = summary.duration / 1e6
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('RESULT %.1f %.2f %.2f %.1f %d %d\n', (sum.ok + sum.refused + sum.failed) / seconds,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, sum.tokens / seconds, sum.refused,
    sum.failed + errors))
end

function M.infer(fields)
  return wrk.format('POST', '/v1/infer', { ['Content-Type'] = 'application/json' }, fields)
end

return M
