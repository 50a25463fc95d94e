-- GET /livez: what HTTP alone costs.
local common = require('common')
setup, init, response, done = common.setup, common.init, common.response, common.done
request = function() return wrk.format('GET', '/livez') end
