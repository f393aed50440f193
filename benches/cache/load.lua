-- Requests for wrk: `wrk … -s load.lua URL -- METHOD PATHS [BODY]`. PATHS is a file of paths, one a line, asked for in turn; BODY is a file.
-- What came of it goes to standard output as one line of JSON.

local requests, at = {}, 0

function init(args)
    local body
    if args[3] then
        local file = assert(io.open(args[3], "rb"))
        body = file:read("*a")
        file:close()
    end
    for path in io.lines(args[2]) do
        requests[#requests + 1] = wrk.format(args[1], path, wrk.headers, body)
    end
end

function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"microseconds":%d,"requests":%d,"bytes":%.0f,"errors":%d,"p50":%d,"p99":%d}\n',
        summary.duration, summary.requests, summary.bytes,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
