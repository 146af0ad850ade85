# Protocol::WebSocket as a client: echo_client.pl URL VERSION TEXT... Prints each answer on
# a line.
use strict;
use warnings;
use IO::Socket::INET;
use Protocol::WebSocket::Handshake::Client;

my ($url, $version, @texts) = @ARGV;
my ($host, $port) = $url =~ m{^ws://([^:/]+):(\d+)};
my $socket = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port) or die $!;
my $handshake = Protocol::WebSocket::Handshake::Client->new(url => $url, version => $version);
$handshake->req->origin("http://$host");
$socket->syswrite($handshake->to_string);
my $data;
until ($handshake->is_done) {
    $socket->sysread($data, 65536) or die "the server ended the connection";
    $handshake->parse($data) or die $handshake->error;
}
my %options = (max_payload_size => undef, masked => $version eq "draft-ietf-hybi-17");
my $incoming = $handshake->build_frame(%options);
$incoming->append($data);
for my $text (@texts) {
    $socket->syswrite($handshake->build_frame(%options, buffer => $text)->to_bytes);
    my $message;
    until (defined($message = $incoming->next_bytes)) {
        $socket->sysread($data, 65536) or die "the server ended the connection";
        $incoming->append($data);
    }
    print $message, "\n";
}
