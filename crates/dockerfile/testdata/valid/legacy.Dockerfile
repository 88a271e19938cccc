FROM debian
MAINTAINER café <me@example.org>
ENV key  a  value
LABEL note it's "old"
CMD ['not', 'json']
RUN a \

  b
