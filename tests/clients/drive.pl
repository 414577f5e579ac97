# Calls scripts/clients/CallbackAgent.pm: on each line of standard input a request as JSON, on each
# line of standard output its outcome. The values are given in the kinds of scalars that programs
# have: numbers as text, and text that was used as a number. `fork` is a call in a child first.
#
# usage: drive.pl [PIPE, or '' for the default one [TIMEOUT [RESTART]]]
use 5.016;
use warnings;
use CallbackAgent;
use JSON::PP;

my $json  = JSON::PP->new->utf8->allow_bignum;
my $agent = CallbackAgent->new(path => $ARGV[0] || undef, timeout => $ARGV[1] // 60, restart => $ARGV[2] // 0);
$| = 1;
$SIG{USR1} = sub { };

sub careless {
    my ($value) = @_;
    return {map { $_ => careless($value->{$_}) } keys %$value} if ref $value eq 'HASH';
    return [map { careless($_) } @$value] if ref $value eq 'ARRAY';
    return $value ? 1 : 0 if JSON::PP::is_bool($value);
    return $value if !defined $value;
    no warnings 'numeric';
    my $used = $value + 0;
    return "$value" if $value =~ /\A-?[0-9]+\z/ && $value % 2;
    return $value;
}

while (my $line = <STDIN>) {
    my $request = $json->decode($line);
    if ($request->{fork}) {
        my $child = fork // die "no child: $!";
        waitpid $child, 0 if $child;
        outcome($request);
        exit if !$child;
    }
    else {
        outcome($request);
    }
}

sub outcome {
    my ($request) = @_;
    my ($method, %params) = ($request->{method}, %{careless($request->{params} // {})});
    my %named = (lookup => 'event', explain => 'event', code => 'digests', list => '', status => '');
    my $first = $named{$method};
    my $result = eval {
        !defined $first || $first ne '' && !exists $params{$first} ? $agent->call($method, %params)
            : $agent->$method($first eq '' ? () : delete $params{$first}, %params);
    };
    if (my $error = $@) {
        die $error if !ref $error || !$error->isa('CallbackAgent::Error');
        my %said = (message => $error->message, class => ref $error);
        $said{code} = $error->code if defined $error->code;
        $said{data} = $error->data if defined $error->data;
        print $json->encode({error => \%said}), "\n";
    }
    else {
        print $json->encode({result => $result}), "\n";
    }
}
