"""The figures of all runs as a table for people and as one JSON document."""
import json
import os
import platform

from measures import MEASURES, judge, middle, ratio, words

SIDES = ('ours', 'theirs', 'floor')
# The number of programs of measures that are taken apart.
APART = 1


def rows(taken, counts, wanted):
    """One dictionary per measure and number of programs. taken: {(measure, count, side): [samples]}."""
    found = []
    for measure in MEASURES:
        if measure.name not in wanted:
            continue
        ends = [middle(measure, taken.get((measure.name, count, 'ours'))) for count in (counts[0], counts[-1])]
        for count in (APART,) if measure.apart else counts:
            samples = {side: taken.get((measure.name, count, side), []) for side in SIDES}
            figures = {side: middle(measure, samples[side]) for side in SIDES}
            compared = ratio(measure, figures['ours'], figures['theirs'])
            targets = []
            for target in measure.targets:
                # Flatness is one statement about two numbers of programs, shown with the larger.
                if target.kind == 'flat' and (len(counts) == 1 or count != counts[-1]):
                    continue
                if target.counts and count not in target.counts:
                    continue
                targets.append({'text': words(measure, target, counts),
                                'met': judge(measure, target, figures, compared, ends)})
            found.append({'measure': measure.name, 'text': measure.text, 'programs': count, 'unit': measure.unit,
                          **figures, 'ratio': compared, 'targets': targets, 'samples': samples})
    return found


def number(value):
    if value is None:
        return '-'
    if value and abs(value) < 10:
        return f'{value:.3g}'
    return f'{value:,.1f}' if abs(value) < 1000 else f'{value:,.0f}'


def verdict(targets):
    """'yes' when all are met, 'no' when one is not, '?' when that cannot be told."""
    if not targets:
        return ''
    met = [target['met'] for target in targets]
    return 'no' if False in met else '?' if None in met else 'yes'


def table(found):
    """The rows as text, columns aligned."""
    lines = [('measure', 'N', 'ours', 'Supervisor', 'floor', 'unit', 'ratio', 'target', 'met')]
    for row in found:
        compared = '-' if row['ratio'] is None else f'{number(row["ratio"])}x'
        lines.append((row['text'], str(row['programs']), number(row['ours']), number(row['theirs']),
                      number(row['floor']), row['unit'], compared,
                      '; '.join(target['text'] for target in row['targets']), verdict(row['targets'])))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = {0, 5, 7, 8}
    text = []
    for line in lines:
        cells = (cell.ljust(width) if column in left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(line, widths)))
        text.append('  '.join(cells).rstrip())
    text.insert(1, '-' * max(map(len, text)))
    return '\n'.join(text)


def document(found, counts, runs, versions, failed):
    """What `--json` writes."""
    return json.dumps({
        'machine': {'cpus': os.cpu_count(), 'kernel': platform.release(),
                    'load': [round(load, 2) for load in os.getloadavg()]},
        'versions': versions, 'programs': counts, 'runs': runs, 'rows': found,
        'not_measured': [{'side': side, 'programs': count, 'measure': name, 'reason': reason}
                         for (side, count, name), reason in failed.items()],
    }, indent=1) + '\n'
