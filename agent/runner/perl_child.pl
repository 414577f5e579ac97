# The program that a Perl callback runs in: passed to its interpreter as text, by -e.
#
# It receives the code and becomes three processes, the leader, the keeper and the callback. They
# and the protocol are in process.py.

package qb;

# First, so that a callback is compiled without `strict` and sees none of the names below.
sub _evaluate { eval shift }

use strict;
use warnings;
use Fcntl ();
use JSON::PP ();
use POSIX ();

our $jobid;

my ($farm_number, $status_number, $lifeline_number) = splice @ARGV;
open(my $farm, "+<&=", $farm_number) or die "the farm's descriptor: $!\n";
open(my $status, ">&=", $status_number) or die "the status descriptor: $!\n";
open(my $lifeline, "<&=", $lifeline_number) or die "the lifeline's descriptor: $!\n";
fcntl($_, Fcntl::F_SETFD(), Fcntl::FD_CLOEXEC()) for $farm, $status, $lifeline;
$SIG{$_} = "DEFAULT" for grep { !/^__/ } keys %SIG;
# A stopped keeper is sent it when the leader is killed, and then goes on.
$SIG{HUP} = "IGNORE";
POSIX::sigprocmask(POSIX::SIG_SETMASK(), POSIX::SigSet->new);
$| = 1;

# Bytes from the runner until they are enough.
sub _receive {
    my ($data, $enough) = @_;
    until ($enough->($data)) {
        my $got = sysread($farm, $data, 1 << 16, length $data);
        next if !defined $got && $!{EINTR};
        die "the runner has ended\n" unless $got;
    }
    return $data;
}

sub _send {
    my ($to, $data) = @_;
    while (length $data) {
        my $done = syswrite($to, $data);
        next if !defined $done && $!{EINTR};
        die "the runner has ended\n" unless $done;
        substr($data, 0, $done) = "";
    }
}

my $json = JSON::PP->new->utf8->allow_nonref;
my ($head, $code) = split /\n/, _receive("", sub { $_[0] =~ /\n/ }), 2;
my $about = $json->decode($head);
$code = _receive($code, sub { length($_[0]) >= $about->{size} });

# Wait for the end of a child: its wait status, or undef if it is to be ended before.
sub _watch {
    my ($child) = @_;
    $SIG{CHLD} = sub { };
    vec(my $either = "", $lifeline_number, 1) = 1;
    while (waitpid($child, POSIX::WNOHANG()) != $child) {
        # A signal that comes just before `select` does not end it, so it ends by itself.
        return undef if select(my $ready = $either, undef, undef, 0.1) > 0;
    }
    return $?;
}

# The leader of the group, or its child if the interpreter is started by another program.
my ($leader, $group) = ($$, getpgrp);
my $keeper = fork;
die "no process can be started: $!\n" unless defined $keeper;
if ($keeper) {
    close $farm;
    _watch($keeper);
    kill "KILL", 0;
    # The first process of a container is not killed by its own signal.
    POSIX::_exit(0);
}
setpgrp(0, 0);
my $child = fork;
die "no process can be started: $!\n" unless defined $child;
if ($child) {
    close $farm;
    my $how = _watch($child);
    # While the leader is the parent of this process, the numbers belong to it and its group.
    my $led = getppid == $leader;
    if (!defined $how) {
        kill "KILL", -$child;
        kill "KILL", $child;
        kill "KILL", -$group if $led;
        1 while waitpid($child, 0) != $child;
        $how = $?;
    } elsif ($led) {
        # If the callback stopped it.
        kill "CONT", $leader;
    }
    _send($status, "ended $how\n");
    POSIX::_exit(0);
}
setpgrp(0, $group) or die "the process group has ended: $!\n";
$SIG{HUP} = "DEFAULT";
_send($status, "begun\n");
close $status;
close $lifeline;
$jobid = $about->{job};
my $owner = $$;

sub jobid { return $jobid }

sub _ask {
    my ($function, @args) = @_;
    die "a process that a callback started cannot use qb\n" if $$ != $owner;
    my $request = $json->encode({function => $function, args => \@args, named => {}});
    if (length $request >= $about->{longest}) {
        require Carp;
        Carp::croak("$function: its arguments have more than $about->{longest} bytes");
    }
    _send($farm, "$request\n");
    my $answer = $json->decode(_receive("", sub { substr($_[0], -1) eq "\n" }));
    if (exists $answer->{error}) {
        require Carp;
        Carp::croak($answer->{error});
    }
    my $result = $answer->{result};
    return ref $result eq "ARRAY" ? @$result : $result;
}

for my $function (@{$about->{functions}}) {
    no strict "refs";
    *{"qb::$function"} = sub { _ask($function, @_) };
}
$INC{"qb.pm"} = "(callback-agent)";

my $path = $about->{path};
utf8::encode($path);
$0 = $path;
# What stands after __END__ or __DATA__ can be read from DATA, as in a file.
if ($code =~ /^__(?:END|DATA)__[ \t]*\r?\n/m) {
    my $rest = substr $code, $+[0];
    no warnings "once";
    open(main::DATA, "<", \$rest);
}
(my $shown = $path) =~ tr/"\n/__/;
_evaluate("package main;\n#line 1 \"$shown\"\n$code");
if ($@) {
    print STDERR $@;
    exit 255;
}
exit 0;
