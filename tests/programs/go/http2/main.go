// Both sides of HTTP/2 by Go's net/http and x/net: prior knowledge in clear text, or TLS.
//
// As `go-http2 serve [KEY CERT]` it prints its port and serves `/bytes/N` and `/copy` like the other origins of the tests, until
// its standard input ends. As `go-http2 ask ORIGIN URL [CA]` it makes requests, ORIGIN being `files` where only files are served,
// and prints `fine` if every answer was right.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

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

func answer(to http.ResponseWriter, request *http.Request) {
	if request.ProtoMajor != 2 {
		http.Error(to, "not HTTP/2", http.StatusHTTPVersionNotSupported)
		return
	}
	switch {
	case request.URL.Path == "/copy":
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		_, _ = to.Write(body)
	case strings.HasPrefix(request.URL.Path, "/bytes/"):
		length, err := strconv.Atoi(request.URL.Path[len("/bytes/"):])
		check(err)
		to.Header().Set("Content-Length", strconv.Itoa(length))
		_, _ = to.Write(pattern(length))
	default:
		_, _ = io.WriteString(to, "go")
	}
}

func serve(arguments []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	if len(arguments) > 1 {
		check(http.ServeTLS(listener, http.HandlerFunc(answer), arguments[1], arguments[0]))
	}
	check(http.Serve(listener, h2c.NewHandler(http.HandlerFunc(answer), &http2.Server{})))
}

// ---- the client ----

func client(arguments []string) *http.Client {
	transport := &http2.Transport{}
	if len(arguments) > 2 {
		ca, err := os.ReadFile(arguments[2])
		check(err)
		pool := x509.NewCertPool()
		must(pool.AppendCertsFromPEM(ca), "no certificate in %s", arguments[2])
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	} else {
		transport.AllowHTTP = true
		transport.DialTLS = func(network, address string, _ *tls.Config) (net.Conn, error) {
			return net.Dial(network, address)
		}
	}
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func ask(http *http.Client, request *http.Request, expected []byte) *http.Response {
	response, err := http.Do(request)
	check(err)
	body, err := io.ReadAll(response.Body)
	check(err)
	must(response.StatusCode == 200 && response.ProtoMajor == 2, "%v", response)
	must(bytes.Equal(body, expected), "%d bytes came as %d", len(expected), len(body))
	return response
}

func request(method, url string, body io.Reader) *http.Request {
	request, err := http.NewRequest(method, url, body)
	check(err)
	return request
}

func requests(arguments []string) {
	http, origin, url := client(arguments), arguments[0], arguments[1]
	var all sync.WaitGroup
	for _, length := range []int{1, 1000, 300_000} {
		for times := 0; times < 10; times++ {
			all.Add(1)
			go func(length int) {
				defer all.Done()
				ask(http, request("GET", fmt.Sprintf("%s/bytes/%d", url, length), nil), pattern(length))
				if origin == "files" {
					return
				}
				// With a length, and without one.
				ask(http, request("POST", url+"/copy", bytes.NewReader(pattern(length))), pattern(length))
				streamed := request("POST", url+"/copy", io.MultiReader(bytes.NewReader(pattern(length))))
				ask(http, streamed, pattern(length))
			}(length)
		}
	}
	all.Wait()
	head, err := http.Do(request("HEAD", url+"/bytes/1000", nil))
	check(err)
	must(head.Header.Get("Content-Length") == "1000", "%v", head)
	fmt.Println("fine")
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2:])
	} else {
		requests(os.Args[2:])
	}
}
