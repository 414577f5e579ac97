package CallbackAgent;

=head1 NAME

CallbackAgent - asks the callback agent: which callbacks fire on this event?

=head1 SYNOPSIS

    use CallbackAgent;
    my $agent  = CallbackAgent->new(path => $pipe, timeout => 2);
    my $answer = eval { $agent->lookup('failed-job-self', owner => {id => 1234}, code => 1) };
    die "no answer: $@\n" if !$answer;
    for my $callback (grep { $_->{enabled} } @{$answer->{callbacks}}) {
        print "$callback->{file}: ", length CallbackAgent::bytes($callback), " bytes\n";
    }

=head1 DESCRIPTION

One file for Perl 5.16 or newer, with modules that come with Perl: copy it. C<new> takes C<path> (by
default the caller's own pipe, else root's), C<timeout> and C<restart> in seconds: how long a call
lasts at most (5), and how long it waits, within that, for an agent that is not there (3).

The methods are C<lookup(EVENT, NAME =E<gt> VALUE...)>, C<explain> likewise, C<list(code =E<gt> 1)>,
C<code([DIGEST...])>, C<status>, and C<call(METHOD, NAME =E<gt> VALUE...)> for the others. Names and
values are those of the pipe; C<timeout =E<gt> SECONDS> goes with any. C<id>, C<pid>, C<pgrp> and
C<limit> are sent as numbers, C<code> as true or false and all else as text, whatever kind of scalar
the value is. undef is null, and a parameter that is undef is not sent. The result is the pipe's, as
a hash; texts are character strings. A subscription is not for this client: see the pipe.

A failure dies with a C<CallbackAgent::Error>, which is a C<CallbackAgent::NoAgent> (nobody answers
there), C<TimedOut>, C<Refused> (by the agent: it has C<code>, C<message> and C<data>) or
C<BadArgument>. The time to decode an answer is not limited. An object may be used after a fork.

=cut

use 5.016;
use warnings;
use Errno qw(EAGAIN ECONNREFUSED EINTR ENOENT EPERM);
use Scalar::Util qw(dualvar looks_like_number);
use Socket qw(AF_UNIX SOCK_STREAM pack_sockaddr_un unpack_sockaddr_un);
use Fcntl (); use File::Basename (); use IO::Handle (); use JSON::PP (); use MIME::Base64 ();
use Time::HiRes ();

use constant ROOT_PIPE => '/run/callback-agent/pipe';
use constant MAX_ANSWER => 1 << 30;    # bytes, so that a broken server cannot fill the memory
use constant MAX_DEPTH => 50;          # of an argument; one that contains itself has no end
use constant PAUSES => (0.01, 0.02, 0.04, 0.08, 0.1);    # seconds between attempts to connect

my %IS_NUMBER = map { $_ => 1 } qw(id pid pgrp limit sequence heartbeat);
my $ENCODER = JSON::PP->new->ascii->allow_bignum;
my $DECODER = JSON::PP->new->utf8;

sub new { my ($class, %with) = @_; return bless {timeout => 5, restart => 3, %with}, $class }

sub lookup { my ($self, $event, @w) = @_; return $self->call('lookup', event => $event, @w) }
sub explain { my ($self, $event, @w) = @_; return $self->call('explain', event => $event, @w) }
sub code { my ($self, $digests, @w) = @_; return $self->call('code', digests => $digests, @w) }
sub list { my ($self, @w) = @_; return $self->call('list', @w) }
sub status { my ($self, @w) = @_; return $self->call('status', @w) }

# The bytes of the file of a callback that was asked for with code => 1, or of a value of `code`.
sub bytes {
    my ($of) = @_;
    my $encoded = $of->{code_base64} // $of->{base64};
    return MIME::Base64::decode($encoded) if defined $encoded;
    utf8::encode(my $bytes = $of->{code} // $of->{text}
        // _fail('BadArgument', 'it has no code: ask with code => 1'));
    return $bytes;
}

sub close { my ($self) = @_; delete @{$self}{qw(socket buffer)}; return }

# The result of any method. It is asked again while the agent is not there: that does no harm.
sub call {
    my ($self, $method, %params) = @_;
    my $seconds = delete $params{timeout} // $self->{timeout};
    _fail('BadArgument', "timeout is $seconds: expected seconds, as a number")
        if !looks_like_number($seconds) || $seconds != $seconds;
    my ($end, $wait_until) = (_now() + $seconds, _now() + $self->{restart});
    $wait_until = $end if $end < $wait_until;
    delete @params{grep { !defined $params{$_} } keys %params};
    my $params = _typed('', \%params, 0);
    my %request = (jsonrpc => '2.0', id => 1, method => "$method", params => $params);
    my ($line, @pauses) = ($ENCODER->encode(\%request) . "\n", PAUSES);
    local ($@, $SIG{PIPE}) = ('', 'IGNORE');
    while (1) {
        # After a fork, each process would get parts of the other's answers.
        $self->close if defined $self->{socket} && $self->{process} != $$;
        my $is_new = !defined $self->{socket};
        if (my $answer = eval { $self->_exchange($line, $end) }) {
            return $answer->{result} if !exists $answer->{error};
            _refuse($answer->{error});
        }
        my $error = $@;
        $self->close;    # The rest of the answer may still arrive.
        die $error if !ref $error || !$error->{absent};
        next if !$is_new;
        my $pause = @pauses > 1 ? shift @pauses : $pauses[0];
        die $error if _now() + $pause > $wait_until;
        Time::HiRes::sleep($pause);
        die $error if _now() > $end;
    }
}

# The answer to one line: a hash with a result or an error.
sub _exchange {
    my ($self, $line, $end) = @_;
    $self->_connect($end) if !defined $self->{socket};
    for (my $sent = 0; $sent < length $line;) {
        _wait($self->{socket}, 1, $end);
        my $count = syswrite $self->{socket}, $line, length $line, $sent;
        $sent += $count // 0;
        # The agent may have sent the reason why it closed: it is read below.
        last if !defined $count && $! != EAGAIN && $! != EINTR;
    }
    my ($searched, $not_an_agent) = (0, 'this is not a callback agent: it does not send ');
    while (1) {
        my $newline = index $self->{buffer}, "\n", $searched;
        if ($newline < 0) {
            $searched = length $self->{buffer};
            _fail('Error', $not_an_agent . 'the end of its answer') if $searched > MAX_ANSWER;
            _wait($self->{socket}, 0, $end);
            my $count = sysread $self->{socket}, $self->{buffer}, 1 << 16, $searched;
            next if $count || !defined $count && ($! == EAGAIN || $! == EINTR);
            _fail('NoAgent', 'the agent closed the connection', absent => 1);
        }
        my $answer = eval { $DECODER->decode(substr $self->{buffer}, 0, $newline + 1, '') };
        # What a signal handler of the caller raises is not the decoder's.
        die $@ if $@ && $@ !~ /character offset|UTF-8/;
        $searched = 0;
        _fail('Error', $not_an_agent . 'JSON-RPC') if ref $answer ne 'HASH';
        next if exists $answer->{method} || !exists $answer->{id};
        # About the connection as a whole, which the agent closes then.
        _refuse($answer->{error}) if !defined $answer->{id} && exists $answer->{error};
        next if ref $answer->{id} || ($answer->{id} // '') ne '1';
        return $answer if exists $answer->{result} != exists $answer->{error};
        _fail('Error', $not_an_agent . 'either a result or an error');
    }
}

# Connect to the named pipe, or to the first default one where an agent is.
sub _connect {
    my ($self, $end) = @_;
    my ($absent, @errors) = (0);
    my $own = defined $self->{path} ? '' : _own_pipe();
    for my $path ($own eq '' ? $self->{path} : $own eq ROOT_PIPE ? $own : ($own, ROOT_PIPE)) {
        socket my $socket, AF_UNIX, SOCK_STREAM, 0 or _fail('NoAgent', "socket: $!");
        $socket->blocking(0);
        # A path that is too long would be cut, with a warning.
        my $address = eval { local $SIG{__WARN__} = sub { }; pack_sockaddr_un($path) };
        die $@ if $@ && $@ !~ /sockaddr|Wide character/;
        _fail('NoAgent', "$path: this cannot be a pipe: empty, too long or not bytes")
            if !$address || $path =~ /\A\z|\0/ || unpack_sockaddr_un($address) ne $path;
        my $problem = $path eq $own && $path ne ROOT_PIPE ? _problem(File::Basename::dirname($path)) : '';
        while (!$problem) {
            if (connect $socket, $address) {
                @{$self}{qw(socket buffer process)} = ($socket, '', $$);
                return;
            }
            $problem = $! if $! != EAGAIN && $! != EINTR;
            # The queue of new connections is full: Linux fails at once in place of waiting.
            _fail('TimedOut', "$path: no answer in time") if _now() > $end;
            Time::HiRes::sleep((PAUSES)[0]) if !$problem;
        }
        $absent ||= $problem == ENOENT || $problem == ECONNREFUSED;
        push @errors, "$path: $problem";
    }
    _fail('NoAgent', join('; ', @errors), absent => $absent);
}

sub _own_pipe {
    return ROOT_PIPE if $> == 0;
    my ($run, $temporary) = map { $_ // '' } @ENV{qw(XDG_RUNTIME_DIR TMPDIR)};
    return "$run/callback-agent/pipe" if $run =~ m{\A/};
    return ($temporary =~ m{\A/} ? $temporary : '/tmp') . "/callback-agent-$>/pipe";
}

# Why the folder of the caller's own pipe is not used, or ''. Anyone can make a folder in /tmp, and
# an agent's answers hold code that will be run.
sub _problem {
    my @found = lstat $_[0] or return $!;
    return dualvar(EPERM, 'its folder belongs to another user')
        if !Fcntl::S_ISDIR($found[2]) || ($found[4] != $> && $found[4] != 0);
    return $found[2] & 022 ? dualvar(EPERM, 'others may write to its folder: chmod go-w it') : '';
}

# Wait until a socket can be written to, or read from, or a signal comes.
sub _wait {
    my ($socket, $writes, $end) = @_;
    my $left = $end - _now();
    vec(my $bits = '', fileno $socket, 1) = 1;
    my ($read, $write) = $writes ? (undef, $bits) : ($bits, undef);
    _fail('TimedOut', 'no answer in time') if $left <= 0 || !select $read, $write, undef, $left;
}

# A value as the pipe has it under this name.
sub _typed {
    my ($name, $value, $depth) = @_;
    return undef if !defined $value;
    _fail('BadArgument', "$name: nested too deep, or in itself") if $depth > MAX_DEPTH;
    my ($kind, $inner) = (ref $value, $depth + 1);
    return {map { $_ => _typed($_, $value->{$_}, $inner) } keys %$value} if $kind eq 'HASH';
    return [map { _typed($name, $_, $inner) } @$value] if $kind eq 'ARRAY';
    return $value ? JSON::PP::true() : JSON::PP::false() if $name eq 'code';
    _fail('BadArgument', "$name: expected text, a number, a hash or an array")
        if $kind && !overload::Method($value, '""');
    # What is not a number is sent as text: the agent says best what is wrong with it.
    return "$value" if !$IS_NUMBER{$name} || $value !~ /\A(-?)0*([0-9]+)\z/;
    return 0 + "$1$2" if length $2 < 16;
    require Math::BigInt;
    return Math::BigInt->new("$1$2");
}

my $HAS_CLOCK = eval { Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) };

sub _now { return $HAS_CLOCK ? Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) : time }

sub _refuse {
    my %error = ref $_[0] eq 'HASH' ? %{$_[0]} : (message => 'refused');
    _fail('Refused', $error{message}, code => $error{code}, data => $error{data});
}

sub _fail { my ($class, @with) = @_; die bless {message => @with}, "CallbackAgent::$class" }

package CallbackAgent::Error;
use overload '""' => sub { $_[0]{message} }, fallback => 1;
sub message { return $_[0]{message} }
sub code { return $_[0]{code} }
sub data { return $_[0]{data} }
push @CallbackAgent::NoAgent::ISA, __PACKAGE__;
push @CallbackAgent::TimedOut::ISA, __PACKAGE__;
push @CallbackAgent::Refused::ISA, __PACKAGE__;
push @CallbackAgent::BadArgument::ISA, __PACKAGE__;

1;
