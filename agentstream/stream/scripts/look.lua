-- For an attempt that was stopped. Answers {kind, text, silent_ms}: 'answered' and the run's text; 'failed',
-- 'not_started', 'erased' or 'unknown'; or 'open' and for how long nothing was heard of the newest attempt.

local run = load()
if not run then return {is_erased() and 'erased' or 'unknown', '', '0'} end
if run.not_started then return {'not_started', '', '0'} end
if run.status == 'failed' or run.status == 'timed_out' or (run.answered and run.failed) then
  return {'failed', '', '0'}
end
if run.answered or not is_open(run) then return {'answered', streamed(run), '0'} end
return {'open', '', string.format('%.0f', now - run.seen)}
