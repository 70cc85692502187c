#!/usr/bin/env python3
"""Compares our reading of configuration files with Supervisor's own, on generated texts.

Run with a Python that has Supervisor 4.3.0 installed, after `cargo build -p fleetvisor-model --example
ini_dump`. Texts come from a fixed seed: sections, options and errors of the INI dialect; whole
configurations with valid, odd and broken values; client sections. With --blocks DIR, also every fenced
block of the text files there. Prints what differs and exits 1 if anything does.
"""
import argparse
import glob
import json
import os
import random
import re
import subprocess
import sys
import tempfile

from supervisor import datatypes, loggers, options

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = {'PATH': '/usr/bin:/bin', 'HOME': '/root', 'LANG': 'C.UTF-8', 'NUM': '7', 'TEXT': 'a value',
               'PERCENT': '50%'}

# ---------------------------------------------------------------------- what Supervisor reads


class Done(Exception):
    pass


def supervisor_ini(path):
    parser = options.UnhosedConfigParser()
    with open(path) as f:
        parser.read_file(f)
    return {'sections': [[s, sorted([k, v] for k, v in parser.items(s))] for s in parser.sections()]}


def level(number):
    for name in ('critical', 'error', 'warn', 'info', 'debug', 'trace', 'blather'):
        if loggers.getLevelNumByDescription(name) == number:
            return name


def target(value):
    if value is datatypes.Automatic:
        return 'AUTO'
    return 'NONE' if value in (None, '') else value


def output(p, channel):
    return [target(getattr(p, channel + '_logfile')), getattr(p, channel + '_logfile_maxbytes'),
            getattr(p, channel + '_logfile_backups'), getattr(p, channel + '_capture_maxbytes'),
            getattr(p, channel + '_events_enabled'), getattr(p, channel + '_syslog')]


def process(p):
    restart = {datatypes.RestartUnconditionally: 'always', datatypes.RestartWhenExitUnexpected: 'unexpected',
               False: 'never'}
    return {'name': p.name, 'command': p.command, 'directory': p.directory, 'umask': p.umask,
            'priority': p.priority, 'autostart': p.autostart, 'autorestart': restart[p.autorestart],
            'startsecs': p.startsecs, 'startretries': p.startretries, 'uid': p.uid, 'stdout': output(p, 'stdout'),
            'stderr': output(p, 'stderr'), 'redirect_stderr': p.redirect_stderr, 'stopsignal': int(p.stopsignal),
            'stopwaitsecs': p.stopwaitsecs, 'stopasgroup': p.stopasgroup, 'killasgroup': p.killasgroup,
            'exitcodes': p.exitcodes, 'environment': sorted([k, v] for k, v in p.environment.items()),
            'serverurl': p.serverurl}


def kind(group):
    if isinstance(group, options.EventListenerPoolConfig):
        from supervisor.events import getEventNameByType
        return ['listeners', group.buffer_size, sorted(getEventNameByType(e) for e in group.pool_events)]
    if isinstance(group, options.FastCGIGroupConfig):
        s = group.socket_config
        if isinstance(s, datatypes.InetStreamSocketConfig):
            return ['tcp', s.host, s.port, s.backlog]
        return ['unix', s.path, s.owner and list(s.owner), s.mode, s.backlog]
    return ['programs']


def server(c):
    if 'port' in c:
        address = [c['host'], c['port']]
    else:
        chown = list(c['chown'])
        address = [c['file'], c['chmod'], None if chown == [-1, -1] else chown]
    # With an empty name Supervisor asks for no password; ours does so only if that is empty too.
    auth = [c['username'], c['password']] if c['username'] or c['password'] else None
    return [c['section'], address, auth]


def supervisor_config(path):
    o = options.ServerOptions()
    o.configfile = path
    o.here = os.path.abspath(os.path.dirname(path))
    s = o.read_config(path)
    if s.logfile != 'syslog':
        s.logfile = options.normalize_path(s.logfile)
    return {
        'supervisord': {
            'minfds': s.minfds, 'minprocs': s.minprocs, 'directory': s.directory, 'user': s.user, 'umask': s.umask,
            'logfile': s.logfile, 'logfile_maxbytes': s.logfile_maxbytes, 'logfile_backups': s.logfile_backups,
            'loglevel': level(s.loglevel), 'pidfile': options.normalize_path(s.pidfile),
            'identifier': s.identifier, 'nodaemon': s.nodaemon, 'silent': s.silent, 'childlogdir': s.childlogdir,
            'nocleanup': s.nocleanup, 'strip_ansi': s.strip_ansi,
            'environment': sorted([k, v] for k, v in s.environment.items())},
        'servers': [server(c) for c in s.server_configs],
        'rpcinterfaces': [[name, sorted([k, v] for k, v in extra.items())]
                          for name, _, extra in s.rpcinterface_factories],
        'groups': [[g.name, g.priority, kind(g), [process(p) for p in g.process_configs]]
                   for g in s.process_group_configs],
        'infos': o.parse_infos, 'warnings': o.parse_warnings}


def supervisor_ctl(path):
    o = options.ClientOptions()
    o.configfile = path
    s = o.read_config(path)
    return {'serverurl': s.serverurl, 'username': s.username, 'password': s.password, 'prompt': s.prompt,
            'history_file': s.history_file}


READERS = {'ini': supervisor_ini, 'config': supervisor_config, 'ctl': supervisor_ctl}


def reference(mode, path):
    try:
        return READERS[mode](path)
    except (ValueError, options.ConfigParser.Error) as e:
        return {'error': str(e)}
    except Exception as e:
        return {'crash': repr(e)}


# ---------------------------------------------------------------------- what is generated

class Choices(random.Random):
    """Lists below start with what is valid; while tame, most choices fall on that part."""
    tame = False

    def choice(self, seq):
        if self.tame and self.random() < 0.93:
            seq = seq[:(len(seq) + 2) // 3]
        return super().choice(seq)


def ini_text(r):
    names = ['a', 'b', 'DEFAULT', 'default', 'program:x y', 'a]b', 'é', ' a ', 'x;y', 'x ;y', '#', '=']
    keys = ['k', 'K', 'Key Two', 'é', 'İ', 'k.1', '[k', '', ' ', 'k;', 'k#1', 'ΑΣ']
    values = ['', 'v', 'a=b:c', 'x;y', 'x ;y', 'x #y', "'q # r'", '"', 'a  b', '[z]', ';', '#', '%', '%(here)s', 'é ç',
              '\x1c', 'a\x0bb', 'a\u2028b', '\u00a0', 'a#b #c ;d', 'a;b;c #d', '\ufeff', '\x85x', '\U000e0001', '\u0301']
    blank = ['', ' ', '\t', '  ', '\u00a0', '\x0c', '\x1f']

    def line():
        kind = r.random()
        indent = r.choice(['', '', '', ' ', '    ', '\t', '\u3000'])
        end = r.choice(['', '', '', ' ', ' ; c', ' # c', '\t;c', ';c', ' ;a #b', '#a ;b'])
        if kind < 0.2:
            return indent + '[' + r.choice(names) + r.choice([']', ']', ']', ']', '', '] tail', ']]']) + end
        if kind < 0.65:
            return (indent + r.choice(keys) + r.choice(['', ' ', '\t']) + r.choice(['=', ':', '=', '', '==', ' = '])
                    + r.choice(['', ' ', '  ']) + r.choice(values) + end)
        if kind < 0.78:
            return indent + '  ' + r.choice(values) + end
        if kind < 0.9:
            return r.choice(blank)
        if kind < 0.97:
            return indent + r.choice([';', '#', '; c', '# [a]', ';;'])
        return ''.join(r.choice('[]=:;# \tab%\\\'"\x00') for _ in range(r.randrange(12)))

    def good():
        lines = ['[%s]' % r.choice(names[:6])]
        for _ in range(r.randrange(8)):
            lines.append('%s%s%s' % (r.choice(keys[:6]), r.choice(['=', ' = ', ':', ': ']), r.choice(values)))
            if r.random() < 0.3:
                lines.append('   ' + r.choice(values))
            if r.random() < 0.2:
                lines.append(r.choice(blank))
        return lines

    if r.random() < 0.5:
        lines = [x for _ in range(r.randrange(1, 5)) for x in good()]
        if r.random() < 0.3:
            lines.insert(r.randrange(len(lines) + 1), line())
    else:
        lines = ([] if r.random() < 0.1 else ['[a]']) + [line() for _ in range(r.randrange(12))]
    newline = r.choice(['\n', '\n', '\n', '\r\n', '\r'])
    data = (newline.join(lines) + r.choice(['', newline])).encode()
    if r.random() < 0.03:
        at = r.randrange(len(data) + 1)
        data = data[:at] + r.choice([b'\xff', b'\xc3', b'\xe2\x82', b'\xed\xa0\x80', b'\xc0\x80', b'\xf0\x9f']) + data[at:]
    return data


FORMATS = ['%(program_name)s', '%(process_num)d', '%(process_num)02d', '%(numprocs)d', '%(group_name)s', '%(here)s',
           '%(host_node_name)s', '%(ENV_NUM)s', '%(ENV_TEXT)s', '%(ENV_HOME)s', '%%', 'x', ' ', '%(ENV_NOPE)s', '%',
           '%(ENV_PERCENT)s', '%(', '%s', '%(nope)s', '%(program_name)', '%d', '%5%', '50% done']


def expression(r):
    """A %-format, likely a valid one."""
    if r.random() < 0.5:
        return ''.join(r.choice(FORMATS[:12]) for _ in range(r.randrange(1, 4)))
    if r.random() < 0.4:
        return ''.join(r.choice(FORMATS) for _ in range(r.randrange(1, 4)))
    name = r.choice(['program_name', 'process_num', 'numprocs', 'process_num', 'ENV_NUM', 'a(b)c', ''])
    flags = ''.join(r.choice('-+ #0') for _ in range(r.choice([0, 0, 1, 2])))
    width = r.choice(['', '', '3', '12', '007', '*', '99999999999999999999'])
    precision = r.choice(['', '', '.', '.0', '.2', '.12', '.*', '.99999999999'])
    return '<%%(%s)%s%s%s%s%s>%s' % (name, flags, width, precision, r.choice(['', '', 'l', 'hh', 'L']),
                                   r.choice('sdiouxXeEfFgGcra%zé,'), r.choice(['', '', '%s', '%(process_num)d', '%%']))


def pairs(r):
    parts = ['A', 'B_2', '=', '=', ',', ',', '1', '"two words"', "'a,b'", '"', "'", ' ', '%(program_name)s', '%(ENV_NUM)s',
             '/a/b.c', 'a@b', '#', '%%', 'é', '\n   ', ';', '$x', '""', "it's", 'a+b-c:d(e)']
    if r.random() < 0.6:
        value = lambda: r.choice(['1', '"two words"', "'a,b'", '"%(program_name)s"', '/a/b.c', '"x=y"', '""', '"50%%%%"',
                                  '"%(ENV_TEXT)s"', 'a:b', '"%(ENV_NUM)s"'])
        return r.choice([',', ', ', ' , ', ',\n  ']).join(
            '%s%s%s' % (r.choice(['A', 'B', 'C_3', 'NUM']), r.choice(['=', ' = ']), value())
            for _ in range(r.randrange(1, 4)))
    return ''.join(r.choice(parts) for _ in range(r.randrange(10)))


NUMBERS = ['0', '1', '5', '-1', '+3', '1_000', ' 7', '', 'x', '1.5', '0x10', '1__0', '_1', '%(ENV_NUM)s', '%(process_num)d',
           '007', '10 ; c', '\u0662x', '9' * 15]
BOOLEANS = ['true', 'false', 'Yes', 'NO', 'on', 'OFF', '1', '0', 'maybe', '', 'True ', '2', 'unexpected', '%(ENV_NUM)s']
SIZES = ['0', '1KB', '1kb', '2 MB', '1gB', '-1KB', 'KB', '1.5MB', '10TB', '1_0kb', '', '5', ' 50MB ', '0x1KB', '1mb2']
LOGS = ['AUTO', 'auto', 'NONE', 'off', 'syslog', '', '/tmp/x.log', '/no/such/dir/x.log', 'rel.log', 'rel/x.log',
        '%(here)s/%(program_name)s.log', '~/x.log', '~nosuch/x.log', '~root/x.log', '/x', '/dev/stdout', '%(here)s/%%d',
        '%(here)s/%%%%d', '%(here)s/%(process_num)03d']
USERS = ['root', '0', 'nobody', 'nosuchuser', '99999', '', '-1', 'root ', '+0', '0_0']
SIGNALS = ['TERM', 'sigusr1', 'HUP', '9', '0', '99', 'FOO', '', ' int ', 'SIGRTMIN', 'RTMAX', '33', 'CLD', 'IOT', '-1', 'SIGSIGHUP']
OWNERS = ['root', 'root:root', '0:0', 'nobody:nogroup', 'nosuchuser', 'root:nosuch', '0:99999', '', ':', 'root:', '0']
OCTALS = ['022', '0700', '777', '8', '0o22', 'rwx', '', '999', '0_7', '7_', '+7']
PORTS = ['9001', '*:9001', '127.0.0.1:9001', 'LocalHost:80', ':80', '70000', 'a:70000', 'a:0', 'a:', 'http', 'a:http', '',
         '[::1]:90', 'a:b:5', '-1', '%(ENV_NUM)s', '%(here)s']
EVENTS = ['TICK_5', 'TICK_60,process_state', 'EVENT', 'TICK_5, TICK_5', 'NOPE', '', 'TICK_5,', ' tick ', 'PROCESS_LOG_STDOUT,TICK']
SOCKETS = ['unix:///tmp/f.sock', 'tcp://localhost:9000', 'unix:///tmp/%(program_name)s.sock', 'tcp://A:1', 'unix:///a/../b//c',
           'foo', 'tcp://localhost', 'unix://rel', 'tcp://a:99999', 'tcp://A:0', '', 'tcp://a b:1', 'unix://~/x', 'tcp://a:1:2', 'tcp://:1']


def names(r):
    return r.choice(['a', 'b', 'c', 'web', 'a b', 'a:b', 'a/b', ' p ', '', 'é', 'a.b-c']) if r.random() < 0.2 else r.choice('abcd')


def program_options(r):
    choice = {
        'command': lambda: r.choice(['/bin/cat', '', expression(r), expression(r), expression(r), '/bin/echo "a b"']),
        'process_name': lambda: r.choice(['%(program_name)s_%(process_num)02d', '%(program_name)s', 'x y', 'p%(process_num)d',
                                          expression(r), '%(group_name)s-%(process_num)s', ' z ']),
        'numprocs': lambda: r.choice(['1', '2', '3', '0', '-1', 'x', '12']),
        'numprocs_start': lambda: r.choice(['0', '5', '-2', 'x', '98']),
        'directory': lambda: r.choice(['/tmp', '%(here)s', '', '/no/such', expression(r)]),
        'umask': lambda: r.choice(OCTALS), 'priority': lambda: r.choice(NUMBERS),
        'autostart': lambda: r.choice(BOOLEANS), 'autorestart': lambda: r.choice(BOOLEANS + ['Unexpected', 'sometimes']),
        'startsecs': lambda: r.choice(NUMBERS), 'startretries': lambda: r.choice(NUMBERS),
        'exitcodes': lambda: r.choice(['0', '0,2', '0, 2,17', '', '256', '-1', '0,x', '1,', '+1,1_0']),
        'stopsignal': lambda: r.choice(SIGNALS), 'stopwaitsecs': lambda: r.choice(NUMBERS),
        'stopasgroup': lambda: r.choice(BOOLEANS), 'killasgroup': lambda: r.choice(BOOLEANS),
        'user': lambda: r.choice(USERS), 'redirect_stderr': lambda: r.choice(BOOLEANS),
        'environment': lambda: pairs(r), 'serverurl': lambda: r.choice(['AUTO', ' auto ', 'http://x', '', expression(r)]),
        'unknown_key': lambda: expression(r)}
    for channel in 'stdout', 'stderr':
        choice.update({
            channel + '_logfile': lambda: r.choice(LOGS), channel + '_logfile_maxbytes': lambda: r.choice(SIZES),
            channel + '_logfile_backups': lambda: r.choice(NUMBERS), channel + '_capture_maxbytes': lambda: r.choice(SIZES),
            channel + '_events_enabled': lambda: r.choice(BOOLEANS), channel + '_syslog': lambda: r.choice(BOOLEANS)})
    return choice


def section(r, header, choice, always=(), count=3):
    keys = list(always) + r.sample(sorted(choice), min(len(choice), r.randrange(count + 1)))
    return '[%s]\n' % header + ''.join('%s=%s\n' % (k, choice[k]()) for k in keys)


def config_text(r, folder, number):
    """One main file, perhaps with included ones beside it."""
    r.tame = r.random() < 0.7
    supervisord = {
        'minfds': lambda: r.choice(NUMBERS), 'minprocs': lambda: r.choice(NUMBERS), 'user': lambda: r.choice(USERS),
        'directory': lambda: r.choice(['/tmp', '/no/such', '%(here)s', '~', '']), 'umask': lambda: r.choice(OCTALS),
        'logfile': lambda: r.choice(LOGS), 'logfile_maxbytes': lambda: r.choice(SIZES),
        'logfile_backups': lambda: r.choice(NUMBERS), 'pidfile': lambda: r.choice(LOGS),
        'loglevel': lambda: r.choice(['info', 'WARN', 'blather', 'loud', '', 'warning', 'critical', ' debug']),
        'identifier': lambda: r.choice(['x', '', 'é', expression(r)]), 'nodaemon': lambda: r.choice(BOOLEANS),
        'silent': lambda: r.choice(BOOLEANS), 'childlogdir': lambda: r.choice(['/tmp', '%(here)s', '/no/such', 'rel']),
        'nocleanup': lambda: r.choice(BOOLEANS), 'strip_ansi': lambda: r.choice(BOOLEANS),
        'environment': lambda: pairs(r)}
    program = program_options(r)
    listener = dict(program, events=lambda: r.choice(EVENTS), buffer_size=lambda: r.choice(['10', '0', 'x', '-1', '5']),
                    redirect_stderr=lambda: r.choice(['false', 'false', 'true']))
    fcgi = dict(program, socket=lambda: r.choice(SOCKETS), socket_owner=lambda: r.choice(OWNERS),
                socket_mode=lambda: r.choice(OCTALS), socket_backlog=lambda: r.choice(['10', '0', '65536', 'x']))
    auth = {'username': lambda: r.choice(['u', '', '%(ENV_NUM)s', '%(here)s']), 'password': lambda: r.choice(['p', '', '%%', '%'])}
    inet = dict(auth, port=lambda: r.choice(PORTS))
    unix = dict(auth, file=lambda: r.choice(['/tmp/s.sock', '%(here)s/s.sock', 'rel.sock', '~/s', ' /a/../b ', '']),
                chmod=lambda: r.choice(OCTALS), chown=lambda: r.choice(OWNERS))
    members = lambda: r.choice(['a', 'a,b', 'a, b', 'zz', '', 'a,a', 'b,c', 'c,zz'])

    def body(count):
        parts = []
        for _ in range(count):
            kind = r.random()
            if kind < 0.6:
                parts.append(section(r, 'program:' + names(r), program, ['command'] if r.random() < 0.95 else [], 4))
            elif kind < 0.7:
                parts.append(section(r, 'eventlistener:' + names(r), listener, ['command', 'events'], 3))
            elif kind < 0.8:
                parts.append(section(r, 'fcgi-program:' + names(r), fcgi, ['command', 'socket'], 3))
            elif kind < 0.88:
                group = {'programs': members, 'priority': lambda: r.choice(NUMBERS)}
                parts.append(section(r, 'group:' + r.choice(['g', 'h', 'a', 'g h']), group, ['programs'], 1))
            elif kind < 0.92:
                parts.append(section(r, r.choice(['inet_http_server', 'inet_http_server:x']), inet, ['port'], 2))
            elif kind < 0.97:
                parts.append(section(r, r.choice(['unix_http_server', 'unix_http_server:x']), unix, ['file'], 3))
            elif kind < 0.98:
                parts.append(section(r, 'DEFAULT', program, ['stdout_logfile'], 1))
            else:
                factory = {'supervisor.rpcinterface_factory': lambda: 'supervisor.rpcinterface:make_main_rpcinterface',
                           'extra': lambda: r.choice(['1', '%(here)s', '%(ENV_NUM)s'])}
                always = ['supervisor.rpcinterface_factory'] if r.random() < 0.8 else []
                parts.append(section(r, 'rpcinterface:supervisor', factory, always, 1))
        return parts

    parts = body(r.randrange(1, 4))
    if r.random() < 0.97:
        parts.insert(0, section(r, 'supervisord', supervisord, (), r.choice([0, 0, 1, 3])))
    if r.random() < 0.2:
        r.shuffle(parts)
    if r.random() < 0.2:
        include = os.path.join(folder, 'c%d.d' % number)
        os.mkdir(include)
        for name in r.sample(['a.conf', 'b.conf', '.h.conf', 'c.ini', 'd[1].conf'], r.randrange(4)):
            text = ''.join(body(r.randrange(1, 3)))
            if r.random() < 0.1:
                text += r.choice(['broken\n', '[include]\nfiles=/no/such\n', '\x00', '[program:a\n'])
            with open(os.path.join(include, name), 'w') as f:
                f.write(text)
        base = 'c%d.d/' % number
        patterns = ['*.conf', '*', '?.conf', '[ab].conf', '[!a].conf', 'no*.conf', 'a.conf', 'none', '.*', 'd[[]1].conf', '', 'd[1].conf']
        files = ' '.join(base + r.choice(patterns) for _ in range(r.randrange(1, 3)))
        files = r.choice([files, files, '%(here)s/' + files, '%(nope)s', 'c%d.*/*.conf' % number, ''])
        parts.append('[include]\nfiles = %s\n' % files if r.random() < 0.95 else '[include]\n')
    return ''.join(parts).encode()


def ctl_text(r, folder, number):
    choice = {'serverurl': lambda: r.choice(['unix:///tmp/s.sock', 'http://x:1', 'unix://%(here)s/s', 'unix://~/s', '', 'x',
                                             'unix://rel/../s', '%(ENV_NUM)s', '%(nope)s']),
              'username': lambda: r.choice(['u', '', '%(ENV_NUM)s', '%(here)s']), 'password': lambda: r.choice(['p', '50%%', '%']),
              'prompt': lambda: r.choice(['p', '', '%(ENV_TEXT)s', '%(here)s']),
              'history_file': lambda: r.choice(['~/.h', '', '%(here)s/h', 'rel'])}
    text = section(r, r.choice(['supervisorctl'] * 9 + ['other']), choice, (), 4)
    return (text + r.choice(['', '', '', '[ctlplugin:x]\na=1\n', '[include]\nfiles=x\n', '[program:x]\n'])).encode()


def blocks(folder):
    """Fenced blocks with a section header in them: what people write."""
    for path in sorted(glob.glob(os.path.join(folder, '*'))):
        with open(path, encoding='utf-8', errors='replace') as f:
            text = f.read()
        for block in re.findall(r'^[ \t]*```[^\n]*\n(.*?)^[ \t]*```', text, re.S | re.M):
            if re.search(r'^\s*\[\S+\]', block, re.M):
                yield block.encode()
        if re.search(r'^\[\S+\]', text, re.M):
            yield text.encode()


# ---------------------------------------------------------------------- comparing

def dump(dumper, mode, paths):
    found = []
    for at in range(0, len(paths), 500):
        run = subprocess.run([dumper, mode] + paths[at:at + 500], stdout=subprocess.PIPE, check=True)
        found += [json.loads(line) for line in run.stdout.decode().split('\n') if line]
    return found


def unique(pairs):
    """Of several groups with one name ours keeps the first, of several processes in a group the last."""
    groups = {}
    for group in pairs:
        processes = {p['name']: p for p in group[3]}
        groups.setdefault(group[0], group[:3] + [list(processes.values())])
    return list(groups.values())


def same(mode, ours, theirs):
    if 'crash' in theirs:
        # Supervisor ends with a traceback; ours has to say anything at all.
        return True
    if 'error' in ours and 'error' in theirs:
        a, b = ours['error'], theirs['error']
        # Of several unknown events Supervisor names any; a plugin's refusal goes on where Supervisor stops.
        return a == b or a.startswith(b + ': Python plugins') or a.startswith('Unknown event') and b.startswith('Unknown event')
    if mode == 'config' and 'groups' in ours and 'groups' in theirs:
        warnings = [w for w in ours['warnings'] if not w.startswith('More than one group')]
        return dict(ours, warnings=warnings) == dict(theirs, groups=unique(theirs['groups']))
    return ours == theirs


def compare(mode, dumper, paths, shown):
    theirs = [reference(mode, path) for path in paths]
    ours = dump(dumper, mode, paths)
    assert len(ours) == len(paths), 'one line of output for each file'
    wrong = [i for i in range(len(paths)) if not same(mode, ours[i], theirs[i])]
    errors = sum('error' in t for t in theirs)
    crashes = sum('crash' in t for t in theirs)
    print('%s: %d texts (%d errors, %d that Supervisor crashes on), %d differ'
          % (mode, len(paths), errors, crashes, len(wrong)))
    for i in wrong[:shown]:
        with open(paths[i], 'rb') as f:
            print('--- %s\n%r\n    ours: %s\n    Supervisor: %s'
                  % (paths[i], f.read(), json.dumps(ours[i], sort_keys=True), json.dumps(theirs[i], sort_keys=True)))
    return not wrong


def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--dumper', default=os.path.join(ROOT, 'target/debug/examples/ini_dump'))
    ap.add_argument('--count', type=int, default=3000, help='texts of each kind')
    ap.add_argument('--seed', type=int, default=43)
    ap.add_argument('--blocks', help='a folder of text files with fenced configurations')
    ap.add_argument('--show', type=int, default=5, help='how many differences to print')
    args = ap.parse_args()
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)

        def write(mode, texts):
            paths = []
            for number, text in enumerate(texts):
                paths.append(os.path.join(folder, '%s%d.conf' % (mode, number)))
                with open(paths[-1], 'wb') as f:
                    f.write(text)
            return paths

        r = Choices(args.seed)
        kinds = {'ini': [ini_text(r) for _ in range(args.count)],
                 'config': [config_text(r, folder, i) for i in range(args.count)],
                 'ctl': [ctl_text(r, folder, i) for i in range(args.count // 10)]}
        for mode, texts in kinds.items():
            ok &= compare(mode, args.dumper, write(mode, texts), args.show)
        if args.blocks:
            texts = list(blocks(args.blocks))
            ok &= compare('ini', args.dumper, write('block', texts), args.show)
            # Most show programs alone.
            whole = [t if b'[supervisord]' in t else b'[supervisord]\n' + t for t in texts]
            ok &= compare('config', args.dumper, write('whole', whole), args.show)
    return 0 if ok else 1


if __name__ == '__main__':
    sys.exit(main())
