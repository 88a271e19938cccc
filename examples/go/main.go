// The life of a customer, with Go's standard library and Depot's command line.
//
// Your platform holds an organization token. Each customer gets a project: a cache, builders, images and tokens of its own,
// that no other customer can reach.
//
// Every method of the API takes and gives JSON over an ordinary POST, so a client is thirty lines. With connect-go and Depot's
// published packages the same methods have types.
//
//	DEPOT_API_URL=http://127.0.0.1:8080 DEPOT_TOKEN=cfd_org_… go run .
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// The messages of the API, with the fields that this program looks at. Names are in camelCase, times are text.
type (
	project struct {
		ProjectID string
		Name      string
	}
	build struct {
		BuildID              string
		Status               string
		BuildDurationSeconds int
		SavedDurationSeconds int
		CachedSteps          int
		TotalSteps           int
	}
	step struct {
		Name        string
		Digest      string
		StartedAt   time.Time
		CompletedAt *time.Time
		CacheState  string
		// An error is there or it is not: a step that went well has none, not an empty one.
		Error   *string
		HasLogs bool
	}
)

// A message to the server.
type message map[string]any

func main() {
	log.SetFlags(0)
	application := "../hello"
	if len(os.Args) > 1 {
		application = os.Args[1]
	}

	// 1. A customer signs up: a project, and a token that is good for this project only. It is shown once: keep it safe.
	var created struct{ Project project }
	call("depot.core.v1.ProjectService/CreateProject", message{
		"name": "customer-from-go", "regionId": "us-east-1",
		"cachePolicy": message{"keepGb": 10, "keepDays": 7},
	}, &created)
	id := created.Project.ProjectID
	var token struct{ TokenID, Secret string }
	call("depot.core.v1.ProjectService/CreateToken", message{
		"projectId": id, "description": "builds of this customer",
	}, &token)
	fmt.Printf("project %s (%s)\n", id, created.Project.Name)

	// 2. The customer builds, twice: the second time the cache answers.
	for range [2]struct{}{} {
		buildApplication(application, id, token.Secret)
	}

	// 3. The platform looks at the customer's builds, newest first.
	builds := listBuilds(id)
	for _, build := range builds {
		fmt.Printf("build %s: %s, %d of %d steps cached, took %d s, saved %d s\n", build.BuildID,
			strings.ToLower(strings.TrimPrefix(build.Status, "STATUS_")), build.CachedSteps, build.TotalSteps,
			build.BuildDurationSeconds, build.SavedDurationSeconds)
	}

	// 4. What the first build did: its steps, and what they wrote.
	printSteps(id, builds[len(builds)-1].BuildID)

	// 5. A cache that misbehaves is thrown away; the customer's next build starts from nothing.
	call("depot.core.v1.ProjectService/ResetProject", message{"projectId": id}, nil)
	fmt.Println("reset")

	// 6. The customer leaves: cache, images, builds and tokens go.
	call("depot.core.v1.ProjectService/DeleteProject", message{"projectId": id}, nil)
	fmt.Println("deleted")
}

// buildApplication builds with the customer's token.
func buildApplication(directory, project, token string) {
	args := []string{"build", "--project", project, "--progress", "plain"}
	if base := os.Getenv("BASE_IMAGE"); base != "" {
		args = append(args, "--build-arg", "BASE="+base)
	}
	command := exec.Command("depot", append(args, directory)...)
	command.Env = append(os.Environ(), "DEPOT_TOKEN="+token)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		log.Fatalf("depot build: %v", err)
	}
}

// listBuilds goes through every page: the last one has no token for a next one.
func listBuilds(project string) []build {
	var all []build
	for token := ""; ; {
		var page struct {
			Builds        []build
			NextPageToken string
		}
		call("depot.core.v1.BuildService/ListBuilds", message{
			"projectId": project, "pageSize": 1, "pageToken": token,
		}, &page)
		all = append(all, page.Builds...)
		if token = page.NextPageToken; token == "" {
			return all
		}
	}
}

// printSteps shows one page of steps, a thousand unless asked otherwise, and their logs.
func printSteps(project, build string) {
	var steps struct{ BuildSteps []step }
	call("depot.build.v1.BuildService/GetBuildSteps", message{"projectId": project, "buildId": build}, &steps)
	for _, step := range steps.BuildSteps {
		var took time.Duration
		if step.CompletedAt != nil {
			took = step.CompletedAt.Sub(step.StartedAt)
		}
		outcome := "done"
		if step.CacheState == "CACHE_STATE_CACHED" {
			outcome = "cached"
		}
		if step.Error != nil {
			outcome = *step.Error
		}
		fmt.Printf("  %s  %.1f s  %s\n", step.Name, took.Seconds(), outcome)
		if !step.HasLogs {
			continue
		}
		var written struct{ Logs []struct{ Message string } }
		call("depot.build.v1.BuildService/GetBuildStepLogs", message{
			"projectId": project, "buildId": build, "buildStepDigest": step.Digest,
		}, &written)
		for _, line := range written.Logs {
			fmt.Printf("    | %s\n", line.Message)
		}
	}
}

// call sends a message to a method and reads the answer, if anybody wants it. What goes wrong ends the program.
func call(method string, in message, out any) {
	body, err := json.Marshal(in)
	if err != nil {
		log.Fatal(err)
	}
	request, err := http.NewRequest("POST", os.Getenv("DEPOT_API_URL")+"/"+method, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+os.Getenv("DEPOT_TOKEN"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	if response.StatusCode != http.StatusOK {
		// Every error has a code for programs and a message for people.
		var failure struct{ Code, Message string }
		decoder.Decode(&failure)
		log.Fatalf("%s: %s: %s", method, failure.Code, failure.Message)
	}
	if out != nil {
		if err := decoder.Decode(out); err != nil {
			log.Fatalf("%s: %v", method, err)
		}
	}
}
