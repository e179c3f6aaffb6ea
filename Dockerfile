# The course in a container, for a server or for machines on which nothing may be installed:
#   docker build -t first-fine-tune .
#   docker run -it --name first-fine-tune -p 127.0.0.1:8888:8888 -v first-fine-tune-runs:/home/learner/course/runs first-fine-tune
# Open the address with 127.0.0.1 that it prints. To go on another day: docker start -ai first-fine-tune
# The container keeps the notebooks as the learner left them, the volume keeps results and progress.
FROM python:3.12-slim
RUN useradd --create-home learner
USER learner
# By the learner, to whom these folders then belong: .venv goes into the first.
RUN mkdir -p /home/learner/course/runs
WORKDIR /home/learner/course
COPY --chown=learner . .
RUN python tools/make.py setup
EXPOSE 8888
CMD ["python", "tools/make.py", "lab", "--no-browser", "--ServerApp.ip=0.0.0.0"]
