// Both sides of gRPC by grpc-go: the calls of `t.Echo`, whose messages are plain bytes.
//
// As `go-grpc serve [KEY CERT]` it prints its port and serves until its standard input ends. As `go-grpc call HOST:PORT [CA NAME]`
// it makes all four kinds of calls and prints `fine` if every answer was right.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const patience = time.Minute

// Messages as they are, under the name of those that they replace.
type plain struct{}

func (plain) Marshal(message interface{}) ([]byte, error) { return *message.(*[]byte), nil }
func (plain) Unmarshal(data []byte, message interface{}) error {
	*message.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (plain) Name() string { return "proto" }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must(holds bool, format string, values ...interface{}) {
	if !holds {
		panic(fmt.Sprintf(format, values...))
	}
}

func pattern(length int) []byte {
	all := make([]byte, length)
	for i := range all {
		all[i] = byte(i % 251)
	}
	return all
}

// ---- the server ----

var cancelled int64

func waitForTheEnd(stream grpc.ServerStream) error {
	<-stream.Context().Done()
	atomic.AddInt64(&cancelled, 1)
	return status.FromContextError(stream.Context().Err()).Err()
}

func answer(_ interface{}, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if method == "/t.Echo/Chat" {
		return chat(stream)
	}
	if method == "/t.Echo/Count" {
		return count(stream)
	}
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	switch method {
	case "/t.Echo/Unary":
		fields, _ := metadata.FromIncomingContext(stream.Context())
		if kind := fields.Get("x-kind"); len(kind) > 0 {
			check(stream.SetHeader(metadata.Pairs("x-kind", kind[0])))
		}
		if bin := fields.Get("x-bytes-bin"); len(bin) > 0 {
			stream.SetTrailer(metadata.Pairs("x-bytes-bin", bin[0]))
		}
		return stream.SendMsg(&request)
	case "/t.Echo/Cancelled":
		text := []byte(strconv.FormatInt(atomic.LoadInt64(&cancelled), 10))
		return stream.SendMsg(&text)
	case "/t.Echo/Fail":
		stream.SetTrailer(metadata.Pairs("x-why", "because"))
		return status.Error(codes.NotFound, "no such thing: 100%")
	case "/t.Echo/Never":
		return waitForTheEnd(stream)
	case "/t.Echo/Repeat":
		return repeat(stream, request, 10)
	case "/t.Echo/Broken":
		if err := repeat(stream, request, 3); err != nil {
			return err
		}
		return status.Error(codes.DataLoss, "lost")
	case "/t.Echo/Stall":
		if err := repeat(stream, request, 1); err != nil {
			return err
		}
		return waitForTheEnd(stream)
	}
	return status.Error(codes.Unimplemented, method)
}

func repeat(stream grpc.ServerStream, message []byte, times int) error {
	for ; times > 0; times-- {
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
	return nil
}

func chat(stream grpc.ServerStream) error {
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

func count(stream grpc.ServerStream) error {
	messages, length := 0, 0
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			text := []byte(fmt.Sprintf("%d %d", messages, length))
			return stream.SendMsg(&text)
		} else if err != nil {
			return err
		}
		messages, length = messages+1, length+len(message)
	}
}

func serve(arguments []string) {
	options := []grpc.ServerOption{grpc.UnknownServiceHandler(answer)}
	if len(arguments) > 1 {
		secure, err := credentials.NewServerTLSFromFile(arguments[1], arguments[0])
		check(err)
		options = append(options, grpc.Creds(secure))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	check(grpc.NewServer(options...).Serve(listener))
}

// ---- the client ----

type client struct{ *grpc.ClientConn }

func (c client) unary(ctx context.Context, name string, message []byte, options ...grpc.CallOption) ([]byte, error) {
	var answer []byte
	err := c.Invoke(ctx, "/t.Echo/"+name, &message, &answer, options...)
	return answer, err
}

// A call with a stream of messages in at least one direction, and the end of it.
func (c client) open(name string) (grpc.ClientStream, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	both := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := c.NewStream(ctx, &both, "/t.Echo/"+name)
	check(err)
	return stream, cancel
}

func next(stream grpc.ClientStream) ([]byte, error) {
	var message []byte
	err := stream.RecvMsg(&message)
	return message, err
}

func (c client) unaryCalls() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, length := range []int{0, 5, 16_384, 65_536, 3_000_000} {
		echo, err := c.unary(ctx, "Unary", pattern(length))
		check(err)
		must(bytes.Equal(echo, pattern(length)), "%d bytes came back as %d", length, len(echo))
	}
	binary := string(append(pattern(251), 255, 0, 254))
	fields := metadata.AppendToOutgoingContext(ctx, "x-kind", "one", "x-bytes-bin", binary)
	var head, end metadata.MD
	_, err := c.unary(fields, "Unary", nil, grpc.Header(&head), grpc.Trailer(&end))
	check(err)
	must(len(head.Get("x-kind")) == 1 && head.Get("x-kind")[0] == "one", "%v", head)
	must(len(end.Get("x-bytes-bin")) == 1 && end.Get("x-bytes-bin")[0] == binary, "%v", end)

	var all sync.WaitGroup
	for nth := 0; nth < 200; nth++ {
		all.Add(1)
		go func(nth int) {
			defer all.Done()
			echo, err := c.unary(ctx, "Unary", pattern(nth*100))
			check(err)
			must(bytes.Equal(echo, pattern(nth*100)), "call %d", nth)
		}(nth)
	}
	all.Wait()
}

func (c client) streams() {
	for _, length := range []int{0, 100, 200_000} {
		message := pattern(length)
		stream, cancel := c.open("Repeat")
		check(stream.SendMsg(&message))
		check(stream.CloseSend())
		for times := 0; times < 10; times++ {
			got, err := next(stream)
			check(err)
			must(bytes.Equal(got, message), "message %d of %d bytes", times, length)
		}
		_, err := next(stream)
		must(err == io.EOF, "%v", err)
		cancel()

		stream, cancel = c.open("Count")
		for times := 0; times < 20; times++ {
			check(stream.SendMsg(&message))
		}
		check(stream.CloseSend())
		total, err := next(stream)
		check(err)
		must(string(total) == fmt.Sprintf("20 %d", 20*length), "%s", total)
		cancel()
	}
	// Each message after the answer to the one before.
	stream, cancel := c.open("Chat")
	defer cancel()
	for nth := 0; nth < 100; nth++ {
		message := pattern(nth)
		check(stream.SendMsg(&message))
		got, err := next(stream)
		check(err)
		must(bytes.Equal(got, message), "message %d", nth)
	}
	check(stream.CloseSend())
	_, err := next(stream)
	must(err == io.EOF, "%v", err)
}

func fails(err error, code codes.Code) *status.Status {
	must(status.Code(err) == code, "%v instead of %v", err, code)
	return status.Convert(err)
}

func (c client) errors() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var end metadata.MD
	_, err := c.unary(ctx, "Fail", nil, grpc.Trailer(&end))
	must(fails(err, codes.NotFound).Message() == "no such thing: 100%", "%v", err)
	must(len(end.Get("x-why")) == 1 && end.Get("x-why")[0] == "because", "%v", end)
	_, err = c.unary(ctx, "NoSuchCall", nil)
	fails(err, codes.Unimplemented)

	stream, over := c.open("Broken")
	defer over()
	message := []byte("part")
	check(stream.SendMsg(&message))
	check(stream.CloseSend())
	for times := 0; times < 3; times++ {
		got, err := next(stream)
		check(err)
		must(string(got) == "part", "%s", got)
	}
	_, err = next(stream)
	must(fails(err, codes.DataLoss).Message() == "lost", "%v", err)
}

// Ends that the client chooses, of which the server learns.
func (c client) ends() {
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := c.unary(short, "Never", nil)
	fails(err, codes.DeadlineExceeded)

	stream, cancelStall := c.open("Stall")
	message := []byte("first")
	check(stream.SendMsg(&message))
	check(stream.CloseSend())
	got, err := next(stream)
	check(err)
	must(string(got) == "first", "%s", got)
	cancelStall()
	_, err = next(stream)
	fails(err, codes.Canceled)

	ctx, cancelAll := context.WithTimeout(context.Background(), patience)
	defer cancelAll()
	for {
		text, err := c.unary(ctx, "Cancelled", nil)
		check(err)
		if known, _ := strconv.Atoi(string(text)); known >= 2 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func call(arguments []string) {
	options := []grpc.DialOption{grpc.WithNoProxy()}
	if len(arguments) > 2 {
		ca, err := os.ReadFile(arguments[1])
		check(err)
		pool := x509.NewCertPool()
		must(pool.AppendCertsFromPEM(ca), "no certificate in %s", arguments[1])
		secure := credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: arguments[2]})
		options = append(options, grpc.WithTransportCredentials(secure))
	} else {
		options = append(options, grpc.WithInsecure())
	}
	connection, err := grpc.Dial(arguments[0], options...)
	check(err)
	c := client{connection}
	c.unaryCalls()
	c.streams()
	c.errors()
	c.ends()
	check(connection.Close())
	fmt.Println("fine")
}

func main() {
	encoding.RegisterCodec(plain{})
	if os.Args[1] == "serve" {
		serve(os.Args[2:])
	} else {
		call(os.Args[2:])
	}
}
