package netns

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// Forward takes connections from the listener, wherever that is, to an address inside the namespace.
func (n Namespace) Forward(l net.Listener, address string) error {
	for {
		client, err := l.Accept()
		if err != nil {
			return err
		}
		go n.carry(client.(*net.TCPConn), address)
	}
}

func (n Namespace) carry(client *net.TCPConn, address string) {
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", address)
	if err != nil {
		client.SetLinger(0) // the client sees a reset, as if nobody listened
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { copyAndClose(server, client) })
	both.Go(func() { copyAndClose(client, server) })
	both.Wait()
}

// copyAndClose passes the end of one direction on and leaves the other open.
func copyAndClose(to, from *net.TCPConn) {
	io.Copy(to, from)
	to.CloseWrite()
}
