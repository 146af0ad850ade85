# em-websocket as an echo server: echo_server.rb. Prints its port.
require "em-websocket"

EM.run do
  EM::WebSocket.run(host: "127.0.0.1", port: 0) do |ws|
    ws.onmessage { |message| ws.send(message) }
    ws.onbinary { |message| ws.send_binary(message) }
  end
  signature = EM.instance_variable_get(:@acceptors).keys.first
  port, = Socket.unpack_sockaddr_in(EM.get_sockname(signature))
  puts "serving on #{port}"
  $stdout.flush
end
