"""What is measured, in which unit, and what is aimed at. A closed list; how it is measured is in `life`."""
import dataclasses
import statistics

# A time: the smaller the better, compared as theirs/ours. A rate: the larger the better, ours/theirs.
# An amount: the smaller the better, ours/theirs.
TIME, RATE, AMOUNT = 'time', 'rate', 'amount'


@dataclasses.dataclass(frozen=True)
class Target:
    """One condition on ours. `counts`: the numbers of programs it is for, empty for all.

    kind: 'faster' (at least `limit` times theirs), 'floor' (at most `limit` times the floor), 'part' (at most
    `limit` times theirs), 'most' (at most `limit` in the measure's unit), 'flat' (with the most programs at
    most `limit` times worse than with the fewest).
    """
    kind: str
    limit: float
    counts: tuple = ()


@dataclasses.dataclass(frozen=True)
class Measure:
    name: str
    text: str
    kind: str
    unit: str
    targets: tuple = ()
    percentile: int = 50
    floor: bool = False
    # Measured apart from the others, by a daemon of its own, and once a run.
    apart: bool = False


MEASURES = (
    Measure('start', 'start of all until all RUNNING', TIME, 'ms',
            (Target('faster', 6, (1000,)), Target('floor', 1.5, (1000,))), floor=True),
    Measure('first-answer', 'first XML-RPC answer while all start', TIME, 'ms', (Target('most', 100, (1000,)),)),
    Measure('crash', 'crash of all at once until all RUNNING again', TIME, 'ms',
            (Target('faster', 12, (1000,)), Target('floor', 1.5, (1000,))), floor=True),
    Measure('crash-latency-p50', 'crash of one until its new exec, p50', TIME, 'ms',
            (Target('faster', 300), Target('floor', 4), Target('most', 5.8)), floor=True),
    Measure('crash-latency-p99', 'crash of one until its new exec, p99', TIME, 'ms',
            (Target('most', 20, (1000,)),), percentile=99, floor=True),
    Measure('stop', 'stop of all by TERM', TIME, 'ms', (Target('faster', 15, (1000,)),), floor=True),
    Measure('getAllProcessInfo', 'getAllProcessInfo', TIME, 'ms', (Target('faster', 150, (1000,)),)),
    Measure('getState', 'getState, one client', TIME, 'ms',
            (Target('faster', 100, (1000,)), Target('flat', 1.25))),
    Measure('getState-64', 'getState, 64 clients, connections kept', RATE, 'calls/s',
            (Target('faster', 15, (1000,)), Target('flat', 1.25))),
    Measure('getState-64-connect', 'getState, 64 clients, a connection per call', RATE, 'calls/s',
            (Target('faster', 100, (1000,)), Target('flat', 1.25))),
    Measure('status', 'supervisorctl status, the whole process', TIME, 'ms',
            (Target('faster', 25, (10,)), Target('faster', 60, (1000,)))),
    Measure('update', 'supervisorctl update, one program changed', TIME, 'ms', (Target('faster', 10, (1000,)),)),
    Measure('reloadConfig', 'reloadConfig, nothing changed', TIME, 'ms', (Target('faster', 10, (1000,)),)),
    Measure('memory', 'memory (PSS) after the start', AMOUNT, 'MiB',
            (Target('part', 0.35, (10,)), Target('part', 0.5, (1000,)))),
    Measure('memory-used', 'memory (PSS) after all the calls', AMOUNT, 'MiB'),
    Measure('wake-ups', 'context switches when idle', AMOUNT, 'a second', (Target('most', 0),)),
    Measure('logs-lines', 'logs, lines of 100 bytes', RATE, 'MB/s', (Target('faster', 1),), floor=True, apart=True),
    Measure('logs-lines-cpu', 'logs, lines of 100 bytes, CPU', AMOUNT, 's/GB', (Target('part', 0.25),),
            floor=True, apart=True),
    Measure('logs-delay', 'a line until it is in its log, p99', TIME, 'ms', (Target('most', 5),), percentile=99,
            floor=True, apart=True),
    Measure('logs-blocks', 'logs, blocks of 64 KiB', RATE, 'MB/s', (Target('faster', 1),), floor=True, apart=True),
    Measure('logs-blocks-cpu', 'logs, blocks of 64 KiB, CPU', AMOUNT, 's/GB', (Target('part', 0.7),),
            floor=True, apart=True),
    Measure('flood-getState', 'getState while 16 programs flood their logs, p99', TIME, 'ms', (Target('most', 2.5),),
            apart=True),
    Measure('events', 'events to one listener', RATE, 'a second', (Target('faster', 5),), apart=True),
    Measure('tail-delay', 'tail -f, a line until it is delivered, p50', TIME, 'ms', (Target('faster', 10),), apart=True),
    Measure('tail-500', 'tail -f, 500 streams until all flow', TIME, 'ms', (Target('faster', 50),), apart=True),
)


def middle(measure, samples):
    """The figure of a measure: its percentile over the samples of all runs. None without samples."""
    if not samples:
        return None
    if measure.percentile == 50:
        return statistics.median(samples)
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, len(ordered) * measure.percentile // 100)]


def ratio(measure, ours, theirs):
    """How ours compares; see TIME, RATE and AMOUNT. None where there is nothing to divide."""
    above, below = (theirs, ours) if measure.kind == TIME else (ours, theirs)
    return None if above is None or not below else above / below


def judge(measure, target, figures, compared, ends):
    """Whether a target is met: True, False, or None where a figure is missing.

    figures: {'ours', 'theirs', 'floor'}; ends: ours with the fewest and with the most programs.
    """
    ours, floor = figures['ours'], figures['floor']
    if ours is None:
        return None
    if target.kind == 'most':
        return ours <= target.limit
    if target.kind == 'floor':
        return None if floor is None else ours <= target.limit * floor
    if target.kind == 'flat':
        fewest, most = ends
        if fewest is None or most is None:
            return None
        return most <= fewest * target.limit if measure.kind == TIME else most * target.limit >= fewest
    if compared is None:
        return None
    return compared >= target.limit if target.kind == 'faster' else compared <= target.limit


def words(measure, target, counts):
    """A target as people read it."""
    limit = f'{target.limit:g}'
    if target.kind == 'faster':
        return f'{limit}x faster' if measure.kind == TIME else f'{limit}x as many'
    if target.kind == 'floor':
        return f'at most {limit}x the floor'
    if target.kind == 'part':
        return f'at most {limit}x'
    if target.kind == 'flat':
        return f'within {limit}x of that at {counts[0]}'
    return 'none' if target.limit == 0 else f'at most {limit} {measure.unit}'
