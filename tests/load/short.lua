-- Short completions: 16 new tokens from a short prompt, each prompt its own so that caching does not help.
local common = require('common')
setup, response, done = common.setup, common.response, common.done
local n = 0
init = function(args)
  common.init()
  math.randomseed(tonumber(args[1]) or 1)
end
request = function()
  n = n + 1
  return common.infer(string.format('{"sequence":"Note %d. The mill by the river","max_tokens":16}', n * 1000 + math.random(999)))
end
