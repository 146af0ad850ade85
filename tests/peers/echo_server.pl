# Protocol::WebSocket as an echo server, one connection at a time: echo_server.pl. Prints its
# port.
use strict;
use warnings;
use IO::Socket::INET;
use Protocol::WebSocket::Handshake::Server;
use Protocol::WebSocket::Frame;

$SIG{PIPE} = "IGNORE";
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 5) or die $!;
$| = 1;
print "serving on ", $server->sockport, "\n";
while (my $client = $server->accept) {
    my $handshake = Protocol::WebSocket::Handshake::Server->new;
    my $data;
    until ($handshake->is_done) {
        last unless $client->sysread($data, 65536);
        $handshake->parse($data) or last;
    }
    next unless $handshake->is_done;
    $client->syswrite($handshake->to_string);
    my $frame = $handshake->build_frame(max_payload_size => undef);
    while ($client->sysread($data, 65536)) {
        $frame->append($data);
        my $over = 0;
        while (defined(my $message = $frame->next_bytes)) {
            $over = $frame->is_close;
            my $type = $over ? "close" : $frame->is_binary ? "binary" : "text";
            my $answer = $handshake->build_frame(
                buffer => $message, type => $type, max_payload_size => undef)->to_bytes;
            $client->syswrite($answer) if length $answer;
            last if $over;
        }
        last if $over;
    }
    $client->close;
}
