# websocket-ruby as a client: echo_client.rb URL VERSION TEXT... Prints each answer on a
# line, then whether the server answered its close.
require "socket"
require "uri"
require "websocket"

url, version, *texts = ARGV
has_body = [3, 76].include?(version.to_i)
handshake = nil
loop do
  handshake = WebSocket::Handshake::Client.new(url: url, version: version.to_i)
  break unless has_body
  # It strips white space from the expected answer: choose keys whose answer has none.
  break if handshake.instance_variable_get(:@handler).send(:challenge).bytesize == 16
end
socket = TCPSocket.new(URI(url).host, URI(url).port)
socket.write(handshake.to_s)
answer = +""
answer << socket.readpartial(1) until answer.end_with?("\r\n\r\n")
answer << socket.read(16) if has_body
handshake << answer
abort "handshake: #{handshake.error}" unless handshake.valid?

incoming = WebSocket::Frame::Incoming::Client.new(version: handshake.version)
send_frame = lambda do |type, data|
  socket.write(WebSocket::Frame::Outgoing::Client.new(version: handshake.version, type: type, data: data).to_s)
end
texts.each do |text|
  send_frame.call(:text, text)
  frame = nil
  incoming << socket.readpartial(65_536) until (frame = incoming.next)
  puts frame.to_s
end
exit if version == "75"
send_frame.call(:close, "")
begin
  frame = nil
  incoming << socket.readpartial(65_536) until (frame = incoming.next)
  puts frame.type
rescue EOFError
  puts "end"
end
